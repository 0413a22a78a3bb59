"""Runs that are stopped or killed as processes, and continue."""

import re
import signal
import subprocess
import time

import pytest

from tests.helpers.runs import ROOT, assert_equal_runs, make_command, start_run


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """Returns the workdir of an uninterrupted run, and its completed process."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, subprocess.run(make_command(data, workdir), cwd=ROOT, check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def whole(uninterrupted):
    """Returns the workdir of an uninterrupted run."""
    return uninterrupted[0]


def _wait_for_epoch(process, number):
    """Reads the output until an epoch is finished; returns whether it was."""
    return any(re.match(rf"epoch +{number}/", line) for line in process.stdout)


def test_the_output_is_plain_lines_without_a_terminal(uninterrupted):
    _, process = uninterrupted
    assert "\r" not in process.stdout + process.stderr
    assert process.stderr == ""
    assert process.stdout.splitlines()[-4].startswith("epoch 6/6   training loss ")


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_run_that_is_stopped_and_later_killed_ends_like_an_uninterrupted_one(data, whole, tmp_path, number):
    workdir = tmp_path / "run"
    [process] = start_run(data, workdir)
    assert _wait_for_epoch(process, 2)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 75
    [step] = re.findall(r"^stopped at step (\d+) and saved: the same command continues from there\n$", err)
    assert (workdir / "checkpoints" / step).exists()

    [process] = start_run(data, workdir)
    assert any(line == f"resuming after epoch {int(step) // 3}, step {step}\n" for line in process.stdout)
    end_of_epoch = (int(step) // 3 + 1) * 3
    while not (workdir / "checkpoints" / str(end_of_epoch)).exists():  # it appears when it is complete
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    again = subprocess.run(make_command(data, workdir), cwd=ROOT, check=True, capture_output=True, text=True)
    assert "resuming after epoch" in again.stdout
    assert_equal_runs(workdir, whole)
