"""Disks that fill up, are read-only, or return other bytes; files that disappear or change under a running command."""

import contextlib
import shutil

import numpy as np
import pytest

from mobilenet_jax.training.loop import train_and_evaluate
from tests.helpers.runs import assert_equal_runs, make_config

_MAX_LINES = 5  # of error output


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Returns the workdir of an uninterrupted run of three epochs; it must not be changed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train_and_evaluate(make_config(data, train__epochs=3), workdir)
    return workdir


@pytest.mark.parametrize("flips", [3, pytest.param(97, marks=pytest.mark.slow)])
def test_flipped_bits_of_a_checkpoint_do_not_reach_the_model(flips, data, whole, tmp_path, tally):
    """The latest checkpoint has another bit; the run continues after the one before, or the bit does not matter."""
    rng, changed = np.random.default_rng(flips), tally("one bit of a checkpoint")
    for i in range(flips):
        workdir = shutil.copytree(whole, tmp_path / "run")
        files = sorted(
            path for path in (workdir / "checkpoints" / "9").rglob("*") if path.stat().st_size and path.is_file()
        )
        sizes = np.array([path.stat().st_size for path in files])
        file = files[rng.choice(len(files), p=sizes / sizes.sum() / 2 + 0.5 / len(files))]
        content = bytearray(file.read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        file.write_bytes(content)
        with _describe_errors() as problem:
            train_and_evaluate(make_config(data, train__epochs=3), workdir)
            assert_equal_runs(workdir, whole)
        changed.count(f"{i}, {file.relative_to(workdir)}: {problem[0]}" if problem else None)
        shutil.rmtree(workdir)


@contextlib.contextmanager
def _describe_errors():
    problem = []
    try:
        yield problem
    except Exception as error:  # every one counts
        problem.append(f"{type(error).__name__}: {str(error)[:200]}")
