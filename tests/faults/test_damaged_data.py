"""Images and tables with random damage: validation finds it, or training reads what is there."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from input_pipeline.errors import DataError
from input_pipeline.sources.isic import GROUND_TRUTH, GROUPINGS, read_isic
from mobilenet_jax.training.loop import train_and_evaluate
from tests.helpers.runs import ROOT, make_config, read_records

_MAX_MEGABYTES = 2500  # of training; the largest image that is accepted, 10,000 x 10,000 pixels, takes 300
_CELLS = ["", "1", "0.5", "-1", "NaN", "1e999", "=1+1", "\0", "\x1b[31m", "é", "ISIC_0000000", "MEL", '"', "x" * 1000]


def _flip_bits(content, rng):
    for position in rng.integers(len(content), size=rng.integers(1, 20)):
        content[position] ^= 1 << int(rng.integers(8))


def _truncate(content, rng):
    del content[rng.integers(len(content)) :]


def _overwrite(content, rng):
    start = rng.integers(len(content))
    content[start : start + 64] = rng.bytes(min(64, len(content) - start))


def _claim_another_size(content, rng):
    """Replaces height and width in the header of a JPEG or PNG file, sometimes by those of a gigapixel image."""
    jpeg = re.search(rb"\xff[\xc0\xc2]..\x08", bytes(content), re.DOTALL)
    if jpeg:
        content[jpeg.end() : jpeg.end() + 4] = rng.choice([rng.bytes(4), b"\xff\xff\xff\xff", b"\0\0\0\0"])
    else:
        content[16:24] = rng.choice([rng.bytes(8), b"\0\1\0\0\0\1\0\0", b"\0" * 8])


_MUTATIONS = [_flip_bits, _truncate, _overwrite, _claim_another_size]


def _write_mutated_images(folder, number, rng):
    """Writes two classes of damaged images, and eight intact images of each."""
    for label in "ab":
        (folder / label).mkdir(parents=True)
    for i in range(number + 16):
        kind, label = ("jpg", "png")[i // 2 % 2], "ab"[i % 2]
        path = folder / label / f"{i}.{kind}"
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(path)
        if i < number:
            content = bytearray(path.read_bytes())
            _MUTATIONS[i // 4 % len(_MUTATIONS)](content, rng)
            path.write_bytes(content)


def test_forty_damaged_images_are_left_out_or_read(tmp_path, caplog, tally):
    _write_mutated_images(tmp_path / "data", 40, np.random.default_rng(40))
    changes = {"data__source": "folders", "data__skip_damaged": True, "data__split": "per_class:0.2"}
    train_and_evaluate(make_config(tmp_path / "data", model__num_classes=2, **changes), tmp_path / "run")
    _check_left_out(40, caplog.text, tally)


@pytest.mark.slow
def test_damaged_images_take_bounded_memory(tmp_path, tally):
    """Trains for two epochs, decoding all images in each."""
    _write_mutated_images(tmp_path / "data", 1960, np.random.default_rng(1960))
    command = [
        sys.executable, "train.py", "--config=configs/finetune.py", f"--workdir={tmp_path / 'run'}",
        f"--config.data.dir={tmp_path / 'data'}", "--config.data.skip_damaged=True", "--config.data.cache=none",
        "--config.data.image_size=32", "--config.init.weights=", "--config.init.input_scaling=1/255",
        "--config.train.batch_size=8", "--config.train.epochs=2",
    ]  # fmt: skip
    with (tmp_path / "output").open("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        text = (tmp_path / "output").read_text()
    assert process.returncode == 0, text[-2000:]
    assert len(read_records(tmp_path / "run")) == 2
    assert usage.ru_maxrss / 1024 < _MAX_MEGABYTES
    _check_left_out(1960, text, tally)


def _check_left_out(number, text, tally):
    [left_out] = re.findall(r"leaving out (\d+) of", text)
    assert 0.4 * number < int(left_out) < number, "some damage is found, and some images can still be read"
    images = tally("damaged image")
    for _ in range(number):
        images.count()


def _mutate_table(content, rng):
    lines = content.decode().split("\n")
    row = rng.integers(len(lines) - 1)
    match rng.integers(5):
        case 0:
            _flip_bits(content, rng)
            return bytes(content)
        case 1:
            _truncate(content, rng)
            return bytes(content)
        case 2:
            lines.insert(row, lines[rng.integers(len(lines))])
        case 3:
            cells = lines[row].split(",")
            cells[rng.integers(len(cells))] = str(rng.choice(_CELLS))
            lines[row] = ",".join(cells)
        case 4:
            lines[row] = ",".join(rng.permutation(lines[row].split(",")))
    return "\n".join(lines).encode()


@pytest.mark.parametrize("number", [50, pytest.param(450, marks=pytest.mark.slow)])
def test_damaged_tables_are_refused_or_read(number, data, tmp_path, tally):
    folder, rng, tables = (
        shutil.copytree(data, tmp_path / "isic"),
        np.random.default_rng(number),
        tally("damaged table"),
    )
    truth = folder / GROUND_TRUTH.format("Training") / f"{GROUND_TRUTH.format('Training')}.csv"
    for i in range(number):
        path = (truth, folder / GROUPINGS)[i % 2]
        intact = path.read_bytes()
        path.write_bytes(_mutate_table(bytearray(intact), rng))
        try:
            tables.count(_find_problem(read_isic(folder)))
        except DataError as error:
            is_printable = all(line.isprintable() for line in (str(error), *error.details))
            tables.count(None if is_printable else f"not printable: {error}")
        except Exception as error:  # every other one is a fault of the reader
            tables.count(f"{type(error).__name__}: {error}")
        path.write_bytes(intact)


def _find_problem(examples):
    """Returns what is wrong with a table that was read, or None."""
    if not ((examples.labels >= 0) & (examples.labels < 7)).all():
        return f"labels {set(examples.labels.tolist())}"
    missing = [path for path in examples.paths.tolist() if not os.path.isfile(path)]
    return f"missing: {missing[:1]}" if missing else None
