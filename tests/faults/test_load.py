"""Large amounts: millions of rows, and a hundred thousand steps."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.runs import OVERRIDES, ROOT, read_records

_SPLIT = """
import json, resource, sys
import numpy as np
from input_pipeline.examples import Examples
from input_pipeline.splits import split_examples

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

number = int(sys.argv[1])
names = np.char.add("x", np.arange(number).astype(f"U{len(str(number))}"))
lesions = np.char.add("L", (np.arange(number) // 2).astype(f"U{len(str(number))}"))
labels = (np.arange(number) // 2 % 7).astype(np.int32)
examples = Examples(names, labels, lesions, names, tuple("abcdefg"))
table = sum(column.nbytes for column in (names, lesions, labels)) / 2**20
before = peak()
training, validation = split_examples(examples, sys.argv[2], val_fraction=0.2, seed=0)
shared = np.intersect1d(training.lesions, validation.lesions)
print(json.dumps([len(training), len(validation), len(shared), table, peak() - before]))
"""
_SPLIT_FACTOR = 6  # peak of memory by the size of the table
_GROWTH = 40  # MB in all steps
_STEPS = 110_000


@pytest.mark.parametrize(("number", "split"), [(100_000, "lesion"), (100_000, "fold:2/5")])
def test_an_index_is_split_in_bounded_memory(number, split, tally):
    _check_split(number, split, tally)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["lesion", "fold:2/5"])
def test_an_index_of_ten_million_rows_is_split_in_bounded_memory(split, tally):
    _check_split(10_000_000, split, tally)


def _check_split(number, split, tally):
    command = [sys.executable, "-c", _SPLIT, str(number), split]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    training, validation, shared, table, memory = json.loads(result.stdout)
    assert (training + validation, shared) == (number, 0)
    assert validation == pytest.approx(0.2 * number, rel=0.01)
    is_bounded = memory < _SPLIT_FACTOR * table + 100
    tally(f"split of {number:,} rows").count(None if is_bounded else f"{memory:.0f} MB for {table:.0f} MB")


@pytest.mark.slow
def test_a_hundred_thousand_steps_take_no_more_memory_files_and_threads(tmp_path, tally):
    """Trains on the sample, one image per step."""
    overrides = OVERRIDES | {"train.batch_size": 1, "train.epochs": 200, "data.cache": "memory"}
    command = [sys.executable, "train.py", "--config=sample", f"--workdir={tmp_path / 'run'}", "--config.init.weights="]
    command += [f"--config.{key}={value}" for key, value in overrides.items()]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    measured = {}
    for line in process.stdout:
        if match := re.match(r"epoch +(\d+)/", line):
            measured[int(match[1])] = _measure(process.pid)
            if read_records(tmp_path / "run")[-1]["step"] > _STEPS:
                process.terminate()
                break
    process.communicate()
    assert process.returncode == 75
    first, last = measured[10], measured[max(measured)]
    growth = {name: last[name] - first[name] for name in first}
    is_level = growth["megabytes"] < _GROWTH and growth["files"] <= 2 and growth["threads"] <= 2
    tally("100,000 steps").count(None if is_level else str(growth))


@pytest.mark.slow
def test_a_hundred_thousand_steps_in_twenty_epochs_take_no_more_memory_files_and_threads(tmp_path, tally):
    """Trains with one image per step, 20 epochs of 5,600 steps."""
    _write_images(tmp_path / "images", 7_000)
    overrides = {**OVERRIDES, "train.batch_size": 1, "train.epochs": 20, "data.dir": tmp_path / "images"}
    overrides |= {
        "data.source": "folders",
        "data.cache": "memory",
        "data.split": "per_class:0.2",
        "model.num_classes": 0,
        "init.weights": "",
    }
    command = [sys.executable, "train.py", "--config=mobilenet", f"--workdir={tmp_path / 'run'}"]
    command += [f"--config.{key}={value}" for key, value in overrides.items()]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    measured, lines = [], []
    for line in process.stdout:
        lines.append(line)
        if re.match(r"epoch +\d+/", line):
            measured.append(_measure(process.pid))
    process.communicate()
    assert process.returncode == 0, lines[-5:]
    assert read_records(tmp_path / "run")[-1]["step"] > _STEPS
    growth = {name: measured[-1][name] - measured[0][name] for name in measured[0]}
    is_level = growth["megabytes"] < _GROWTH and growth["files"] <= 2 and growth["threads"] <= 2
    tally("100,000 steps in 20 epochs").count(None if is_level else str(growth))


def _write_images(folder, number):
    """Writes images of two classes that are links to one file."""
    image = folder / "image.png"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (32, 32), (200, 120, 90)).save(image)
    for i in range(number):
        os.link(image, folder / "ab"[i % 2] / f"{i}.png")
    image.unlink()


def _measure(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return {
        "megabytes": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024,
        "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
    }
