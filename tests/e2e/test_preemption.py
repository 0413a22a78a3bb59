"""Runs that SIGTERM stops at random moments, from the start of the process to its end, with one and two processes."""

import signal
import subprocess
import time

import numpy as np
import pytest

from mobilenet_jax.weights.load import read_weights
from tests.helpers.runs import ROOT, get_free_port, make_command, read_records

SIGNALS = 100
TIME_LIMIT = 30  # seconds from the signal to the end of all processes
EPOCHS = 30  # of three steps


def _start(data, workdir, processes):
    """Starts the processes of a run; the first lines of their output show that they handle signals."""
    command = make_command(data, workdir, f"--config.train.epochs={EPOCHS}")
    cluster = [f"--coordinator=localhost:{get_free_port()}", f"--num_processes={processes}"] if processes > 1 else []
    numbers = [[f"--process_id={i}"] if cluster else [] for i in range(processes)]
    return [
        subprocess.Popen([*command, *cluster, *number], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in numbers
    ]


def _end(running):
    """Waits for the processes, and returns their statuses and the lines of their errors."""
    outputs = [process.communicate(timeout=600) for process in running]
    return [process.returncode for process in running], [err.decode().splitlines() for _, err in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_is_stopped_at_random_moments_ends_like_an_uninterrupted_one(data, tmp_path, processes):
    start = time.monotonic()
    assert _end(_start(data, tmp_path / "whole", processes))[0] == [0] * processes
    duration, rng, sent, finished = time.monotonic() - start, np.random.default_rng(0), 0, 0
    while sent < SIGNALS:
        workdir = tmp_path / str(finished)
        running = _start(data, workdir, processes)
        time.sleep(rng.uniform(0.5, duration))  # Python itself needs 0.1 s until it can handle a signal
        if any(process.poll() is not None for process in running):
            assert _end(running) == ([0] * processes, [[]] * processes)
            finished += 1
            continue
        for process in running:
            process.send_signal(signal.SIGTERM)
        sent += 1
        start = time.monotonic()
        statuses, errors = _end(running)
        assert time.monotonic() - start < TIME_LIMIT
        assert set(statuses) in ({75}, {0}), errors  # 0: all epochs were done
        assert all(len(lines) <= 1 for lines in errors), errors
        finished += statuses[0] == 0
    while _end(_start(data, tmp_path / str(finished), processes))[0] != [0] * processes:
        pass
    expected = _read_parameters(tmp_path / "whole")
    for run in range(finished + 1):
        assert read_records(tmp_path / str(run)) == read_records(tmp_path / "whole")
        assert _read_parameters(tmp_path / str(run)) == expected


def _read_parameters(workdir):
    tensors = read_weights(workdir, checkpoint="latest").tensors
    return {name: value.tobytes() for name, value in tensors.items()}
