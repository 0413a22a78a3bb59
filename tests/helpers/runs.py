"""Training runs on small data: their configurations and commands, and the files they write."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from configs.mobilenet import get_config
from mobilenet_jax.training.preemption import StopRequest

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"

TIMED = ("seconds", "images_per_second", "input_wait", "memory_mb")  # entries of a record that differ between runs
OVERRIDES = {
    "data.image_size": 32,
    "model.alpha": 0.25,
    "model.head": "small",
    "train.batch_size": 8,
    "train.epochs": 2,
}
COMMAND_EPOCHS = 6


def make_config(data, **changes):
    """Returns the configuration of a small run of two epochs of three steps, on the data set of `write_isic`.

    Args:
        data: the folder of the data set.
        changes: values by their keys, with `__` in place of `.`.
    """
    config = get_config("isic2018")
    config.update_from_flattened_dict({**OVERRIDES, "data.dir": str(data), "init.weights": None})
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def make_command(data, workdir, *more):
    """Returns the command that trains with the configuration of `make_config` for `COMMAND_EPOCHS` epochs."""
    values = {**OVERRIDES, "train.epochs": COMMAND_EPOCHS, "data.dir": data}
    overrides = [f"--config.{key}={value}" for key, value in values.items()]
    base = [sys.executable, "train.py", "--config=configs/mobilenet.py:isic2018", f"--workdir={workdir}"]
    return [*base, *overrides, "--config.init.weights=", *more]


def start_run(data, workdir, *more, processes=1, **options):
    """Starts the processes of the run of `make_command`, and returns them; options are those of `Popen`."""
    command = make_command(data, workdir, *more)
    cluster = [f"--coordinator=localhost:{get_free_port()}", f"--num_processes={processes}"] if processes > 1 else []
    return [
        subprocess.Popen(
            [*command, *cluster, *([f"--process_id={i}"] if cluster else [])],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )
        for i in range(processes)
    ]  # fmt: skip


def end_run(running, timeout=600):
    """Waits for the processes of a run, and returns their statuses and the lines of their errors."""
    outputs = [process.communicate(timeout=timeout) for process in running]
    return [process.returncode for process in running], [err.splitlines() for _, err in outputs]


def assert_equal_runs(workdir, expected):
    """Compares the records and, to the bit, the parameters of the latest and the best checkpoint of two runs."""
    from mobilenet_jax.weights.load import read_weights

    assert read_records(workdir) == read_records(expected)
    for name in ("latest", "best"):
        first, second = (read_weights(path, checkpoint=name) for path in (workdir, expected))
        assert first.identity == second.identity
        assert {key: v.tobytes() for key, v in first.tensors.items()} == {
            key: v.tobytes() for key, v in second.tensors.items()
        }


def request_stop(monkeypatch, steps):
    """Sends SIGTERM to this process after a number of steps; restore `monkeypatch` before training again.

    The batches of an evaluation count as steps.
    """
    end_step, done = StopRequest.end_step, itertools.count(1)

    def end_step_with_signal(self):
        end_step(self)
        if next(done) == steps:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(StopRequest, "end_step", end_step_with_signal)


def with_devices(number: int) -> dict[str, str]:
    """Returns the environment of a process with `number` simulated devices."""
    count = f"--xla_force_host_platform_device_count={number}"
    return {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}"}


def get_free_port() -> int:
    """Returns a TCP port that is free now."""
    import socket

    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def read_records(workdir, *, timed=False):
    """Returns the records of `metrics.jsonl`, without the entries in `TIMED` unless `timed`."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return records if timed else [{k: v for k, v in record.items() if k not in TIMED} for record in records]


def read_table(path):
    """Returns the rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
