"""Runs that are stopped or killed as processes, and continue."""

import re
import signal
import subprocess
import time

import numpy as np
import pytest

from mobilenet_jax.weights.load import read_weights
from tests.helpers.runs import COMMAND_EPOCHS, ROOT, make_command, read_records


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """Returns the workdir of an uninterrupted run, and its completed process."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, subprocess.run(make_command(data, workdir), cwd=ROOT, check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def whole(uninterrupted):
    """Returns the workdir of an uninterrupted run."""
    return uninterrupted[0]


def _start(data, workdir):
    return subprocess.Popen(
        make_command(data, workdir), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _wait_for_epoch(process, number):
    """Reads the output until an epoch is finished; returns whether it was."""
    return any(re.match(rf"epoch +{number}/", line) for line in process.stdout)


def _assert_equal_runs(workdir, expected):
    assert read_records(workdir) == read_records(expected)
    assert _read_parameters(workdir) == _read_parameters(expected)


def _read_parameters(workdir):
    tensors = read_weights(workdir, checkpoint="latest").tensors
    return {name: value.tobytes() for name, value in tensors.items()}


def test_the_output_is_plain_lines_without_a_terminal(uninterrupted):
    _, process = uninterrupted
    assert "\r" not in process.stdout + process.stderr
    assert process.stderr == ""
    assert process.stdout.splitlines()[-4].startswith("epoch 6/6   training loss ")


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_run_that_is_stopped_and_later_killed_ends_like_an_uninterrupted_one(data, whole, tmp_path, number):
    workdir = tmp_path / "run"
    process = _start(data, workdir)
    assert _wait_for_epoch(process, 2)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 75
    [step] = re.findall(r"^stopped at step (\d+) and saved: the same command continues from there\n$", err)
    assert (workdir / "checkpoints" / step).exists()

    process = _start(data, workdir)
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
    _assert_equal_runs(workdir, whole)


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_ends_like_an_uninterrupted_one(data, whole, tmp_path):
    """Sends SIGKILL after a random time, in steps, saves, evaluations and at startup, until the run is finished."""
    rng = np.random.default_rng(0)
    for run in range(20):
        workdir, kills = tmp_path / str(run), 0
        while True:
            process = _start(data, workdir)
            time.sleep(rng.uniform(0, 1) if kills % 2 else 0)
            last = int(rng.integers(1, COMMAND_EPOCHS)) if kills < 3 else COMMAND_EPOCHS + 1
            if not _wait_for_epoch(process, last):  # the run is finished
                break
            time.sleep(rng.uniform(0, 0.15))
            process.kill()
            process.communicate()
            kills += 1
        process.communicate()
        assert process.returncode == 0
        assert kills >= 1
        _assert_equal_runs(workdir, whole)
