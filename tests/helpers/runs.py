"""Training runs on small data: their configurations and commands, and what they write."""

import csv
import json
import os
import sys
from pathlib import Path

from configs.mobilenet import get_config

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"

TIMED = ("seconds", "images_per_second", "input_wait", "memory_mb")
OVERRIDES = {
    "data.image_size": 32,
    "model.alpha": 0.25,
    "model.head": "small",
    "train.batch_size": 8,
    "train.epochs": 2,
}


def make_config(data, **changes):
    config = get_config("isic2018")
    config.update_from_flattened_dict({**OVERRIDES, "data.dir": str(data), "init.weights": None})
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def data_settings(config):
    """Returns the arguments of `load_examples`."""
    return config.data, config.model.num_classes, config.seed


def read_records(workdir, *, timed=False):
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return records if timed else [drop_times(r) for r in records]


def drop_times(record):
    return {k: v for k, v in record.items() if k not in TIMED}


def make_command(data, workdir, *more):
    overrides = [f"--config.{k}={v}" for k, v in {**OVERRIDES, "train.epochs": 6, "data.dir": data}.items()]
    base = [sys.executable, "train.py", "--config=configs/mobilenet.py:isic2018", f"--workdir={workdir}"]
    return [*base, *overrides, "--config.init.weights=", *more]


def with_devices(number: int) -> dict[str, str]:
    """The environment of a process that is to have so many devices."""
    count = f"--xla_force_host_platform_device_count={number}"
    return {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}"}


def read_table(path):
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
