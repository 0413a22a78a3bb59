"""Runs on several devices and in several processes give the results of one device.

Exact comparisons are in float64, so that the order of sums cannot hide an error: two float32 runs from ImageNet weights
at the article's learning rate that differ by a rounding error in their first step differ a hundred million times as
much after thirty steps.
"""

import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mobilenet_jax.training.loop import train_and_evaluate
from tests.helpers import parallel_run
from tests.helpers.runs import ROOT, get_free_port, make_command, make_config, read_records, start_run, with_devices


@pytest.fixture(scope="module")
def train(weights, data, tmp_path_factory):
    """Returns a function that trains in processes with a number of devices each, and returns the arrays they save."""
    folder = tmp_path_factory.mktemp("parallel")

    def train(processes, devices, epochs):
        out = folder / f"{processes}x{devices}x{epochs}.npz"
        command = [sys.executable, "-m", "tests.helpers.parallel_run", data, weights[0.25], str(epochs), out]
        cluster = [f"localhost:{get_free_port()}", str(processes)] if processes > 1 else []
        commands = [[*command, *cluster, *([str(i)] if cluster else [])] for i in range(processes)]
        env = with_devices(devices)
        running = [
            subprocess.Popen(c, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for c in commands
        ]
        errors = [process.communicate(timeout=300)[1] for process in running]
        assert [process.returncode for process in running] == [0] * processes, errors
        return _read_arrays(out)

    return train


@pytest.fixture
def train_here(weights, data, tmp_path):
    """Returns a function that trains in this process, on one device, and returns the saved arrays."""

    def train(epochs):
        out = tmp_path / "here.npz"
        jax.config.update("jax_enable_x64", True)
        try:
            parallel_run.train(str(data), str(weights[0.25]), epochs, str(out))
        finally:
            jax.config.update("jax_enable_x64", False)
        return _read_arrays(out)

    return train


def _read_arrays(path):
    with np.load(path) as arrays:
        return dict(arrays)


LAYOUTS = [(1, 4, 2), *(pytest.param(n, 4 // n, 10, marks=pytest.mark.slow) for n in (1, 2))]


@pytest.mark.parametrize(("processes", "devices", "epochs"), LAYOUTS)
def test_results_do_not_depend_on_the_number_of_devices_and_processes(train_here, train, processes, devices, epochs):
    alone, shared = train_here(epochs), train(processes, devices, epochs)
    assert (alone["devices"], shared["devices"]) == (1, 4)
    assert alone["step"] == shared["step"] == 3 * epochs
    np.testing.assert_array_equal(shared["metrics"][:, :2], alone["metrics"][:, :2])  # counts
    np.testing.assert_allclose(shared["metrics"], alone["metrics"], rtol=1e-5)
    for name in alone.keys() - {"metrics", "devices"}:
        assert np.linalg.norm(shared[name] - alone[name]) <= 1e-5 * np.linalg.norm(alone[name]), name


def test_a_batch_size_that_the_devices_do_not_divide_is_refused(data, tmp_path):
    command = make_command(data, tmp_path / "run", "--config.train.batch_size=10")
    result = subprocess.run(command, cwd=ROOT, env=with_devices(4), capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        "error: config.train.batch_size is 10, not divisible by 4 devices: the nearest are 8 or 12\n"
    )


@pytest.mark.slow
def test_a_run_on_four_devices_continues_on_one(data, tmp_path):
    workdir = tmp_path / "run"
    command = make_command(data, workdir, "--config.train.epochs=2")
    result = subprocess.run(command, cwd=ROOT, check=True, env=with_devices(4), capture_output=True, text=True)
    assert "on 4 cpu device(s)" in result.stdout
    command = make_command(data, workdir, "--config.train.epochs=3")
    result = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "resuming after epoch 2, step 6" in result.stdout
    assert [r["step"] for r in read_records(workdir)] == [3, 6, 9]


@pytest.mark.slow
def test_when_one_of_two_processes_dies_the_other_ends_within_a_minute(data, tmp_path):
    processes = start_run(data, tmp_path / "run", "--config.train.epochs=1000", processes=2)
    assert any(line.startswith("epoch ") for line in processes[0].stdout)
    processes[1].kill()
    start = time.monotonic()
    processes[0].communicate(timeout=90)
    assert time.monotonic() - start < 60
    assert processes[0].returncode != 0
    processes[1].communicate()


@pytest.mark.slow
def test_two_processes_of_two_devices_train_like_one_device(data, tmp_path):
    """Trains one step on all images: from random weights, a rounding difference grows a hundredfold with every step."""
    train_and_evaluate(make_config(data, train__epochs=1, train__batch_size=28), tmp_path / "alone")
    changes = ["--config.train.epochs=1", "--config.train.batch_size=28"]
    processes = start_run(data, tmp_path / "run", *changes, processes=2, env=with_devices(2))
    (out, err), (second_out, second_err) = (process.communicate(timeout=300) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], err
    assert "on 4 cpu device(s)" in out
    second = (second_out + second_err).splitlines()
    assert all(line.startswith("[Gloo]") for line in second), "only the first process logs progress"
    [record], [expected] = read_records(tmp_path / "run"), read_records(tmp_path / "alone")
    assert record["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
    assert record["val_accuracy"] * 14 == pytest.approx(round(record["val_accuracy"] * 14))
