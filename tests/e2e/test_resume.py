"""Runs that are stopped or killed as processes, and continue."""

import re
import signal
import subprocess
import time

import pytest

from mobilenet_jax.training.loop import train_and_evaluate
from tests.helpers.runs import COMMAND_EPOCHS, ROOT, assert_equal_runs, make_command, make_config, start_run


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Returns the workdir of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train_and_evaluate(make_config(data, train__epochs=COMMAND_EPOCHS), workdir)
    return workdir


def _wait_for_epoch(process, number):
    """Reads the output until an epoch is finished; returns whether it was."""
    return any(re.match(rf"epoch +{number}/", line) for line in process.stdout)


def _kill_after_checkpoint(process, workdir, step):
    while not (workdir / "checkpoints" / str(step)).exists():  # it appears when it is complete
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def _run_to_the_end(data, workdir):
    """Returns the lines of the output, which are plain without a terminal."""
    process = subprocess.run(make_command(data, workdir), cwd=ROOT, check=True, capture_output=True, text=True)
    assert process.stderr == ""
    assert "\r" not in process.stdout
    return process.stdout.splitlines()


def test_a_run_that_is_killed_ends_like_an_uninterrupted_one(data, whole, tmp_path):
    workdir = tmp_path / "run"
    [process] = start_run(data, workdir)
    _kill_after_checkpoint(process, workdir, 6)
    lines = _run_to_the_end(data, workdir)
    assert any(re.fullmatch(r"resuming after epoch \d, step \d+", line) for line in lines)
    assert lines[-4].startswith("epoch 6/6   training loss ")
    assert_equal_runs(workdir, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
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
    _kill_after_checkpoint(process, workdir, (int(step) // 3 + 1) * 3)
    assert any(line.startswith("resuming after epoch") for line in _run_to_the_end(data, workdir))
    assert_equal_runs(workdir, whole)
