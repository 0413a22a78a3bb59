"""Runs that SIGTERM stops at random moments, from the start of the process to its end, with one and two processes."""

import math
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.runs import ROOT, assert_equal_runs, end_run, make_command, start_run

SIGNALS = 100
TIME_LIMIT = 30  # seconds from the signal to the end of all processes
EPOCHS = {1: 30, 2: 8}  # of three steps, by the number of processes


def _handles_sigterm(process):
    """Returns whether Python has come as far as the first line of the command; before, SIGTERM kills any process."""
    if process.poll() is not None:
        return True
    caught = re.search(r"^SigCgt:\t([0-9a-f]+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def _wait(running, seconds):
    """Waits, at most until a process has ended; returns how long a finished run took, otherwise infinity."""
    start = time.monotonic()
    while (waited := time.monotonic() - start) < seconds:
        if any(process.poll() is not None for process in running):
            return waited
        time.sleep(0.02)
    return math.inf


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_is_stopped_at_random_moments_ends_like_an_uninterrupted_one(data, tmp_path, processes, tally):
    epochs, start = f"--config.train.epochs={EPOCHS[processes]}", time.monotonic()
    assert end_run(start_run(data, tmp_path / "whole", epochs, processes=processes))[0] == [0] * processes
    duration, rng, finished = time.monotonic() - start, np.random.default_rng(0), 0
    signals = tally(f"SIGTERM of training, processes: {processes}")
    while signals.tried < SIGNALS:
        workdir = tmp_path / str(finished)
        is_new = not workdir.exists()
        running = start_run(data, workdir, epochs, processes=processes)
        while not all(map(_handles_sigterm, running)):
            time.sleep(0.01)
        waited = _wait(running, rng.uniform(0, duration))
        duration = min(duration, waited) if is_new else duration
        for process in running:
            process.send_signal(signal.SIGTERM)
        sent, start = all(process.poll() is None for process in running), time.monotonic()
        statuses, errors = end_run(running)
        if sent:
            signals.count(_find_problem(statuses, errors, time.monotonic() - start))
        finished += statuses[0] == 0
    while end_run(start_run(data, tmp_path / str(finished), epochs, processes=processes))[0] != [0] * processes:
        pass
    for run in range(finished + 1):
        assert_equal_runs(tmp_path / str(run), tmp_path / "whole")


def _find_problem(statuses, errors, seconds):
    """Returns what is wrong with the end of a run; its status is 0 if the signal came after the last step."""
    is_known = set(statuses) in ({75}, {0}) and all(len(lines) <= 1 for lines in errors)
    return None if is_known and seconds < TIME_LIMIT else f"{statuses} after {seconds:.1f} s: {errors}"


def _stop_as_timeout(command):
    """`timeout` sends SIGTERM to its child."""
    return subprocess.run(["timeout", "--preserve-status", "30", *command], cwd=ROOT, capture_output=True, text=True)


def _stop_as_slurm(command):
    """`scancel` and a time limit send SIGCONT and SIGTERM, to all processes of a step; `--signal=TERM` before that."""
    return _stop_after_an_epoch(command, [signal.SIGTERM, signal.SIGCONT, signal.SIGTERM])


def _stop_as_kubernetes(command):
    """A container's first process, for which Linux ignores signals without a handler, gets SIGTERM."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("cannot create a namespace of processes")
    return _stop_after_an_epoch([*unshare, *command], [signal.SIGTERM], in_child=True)


def _stop_after_an_epoch(command, signals, in_child=False):
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any(line.startswith("epoch ") for line in process.stdout)
    pid = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text() if in_child else process.pid
    for number in signals:
        os.kill(int(pid), number)
    output = process.communicate(timeout=TIME_LIMIT)
    return subprocess.CompletedProcess(command, process.returncode, *output)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [_stop_as_timeout, _stop_as_slurm, _stop_as_kubernetes])
def test_schedulers_get_the_status_of_a_run_that_can_continue(data, tmp_path, stop):
    for _ in range(2):
        result = stop(make_command(data, tmp_path / "run", "--config.train.epochs=100000"))
        assert result.returncode == 75, result.stderr
        assert result.stderr.startswith("stopped at step ")
        assert result.stderr.count("\n") == 1
