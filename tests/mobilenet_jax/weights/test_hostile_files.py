"""Files that are broken, or made to do harm: each is refused in a line, soon, and without taking memory."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.keras import hdf5
from mobilenet_jax.weights.load import read_weights
from tests.helpers.hostile_files import (
    BACKBONE,
    CASES,
    random_tensors,
    write_archive,
    write_keras_2,
    write_keras_3,
    write_safetensors,
)

REFUSE = """
import json, resource, sys, time
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights import orbax
from mobilenet_jax.weights.load import read_weights

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

good, *paths = sys.argv[1:]
read_weights(good)
before = peak()
for path in paths:
    start = time.perf_counter()
    try:
        read_weights(path)
        said = "it was read"
    except WeightsError as error:
        said = str(error)
    print(json.dumps([said, time.perf_counter() - start, peak() - before]), flush=True)
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What a process of its own says of each file, how long that takes, and the most memory taken so far, in MB."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = {}
    for name, (write, _) in CASES.items():
        paths[name] = folder / name
        write(paths[name])
    good = write_keras_2(folder / "good.h5")
    command = [sys.executable, "-c", REFUSE, good, *paths.values()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stderr == ""
    return {n: (paths[n], *json.loads(line)) for n, line in zip(CASES, result.stdout.splitlines(), strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_a_line_in_little_time_and_memory(refusals, name):
    path, said, seconds, megabytes = refusals[name]
    assert CASES[name][1] in said
    assert said.startswith(str(path))
    assert said.isprintable()
    assert seconds < 2
    size = path.stat().st_size / 2**20 if path.is_file() else 0
    assert megabytes < 200 + size
    assert not Path("/tmp/a_pickle_was_loaded").exists()


MEASURE = """
import os, resource, subprocess, sys
for path in sys.argv[3:]:
    subprocess.run([sys.argv[1], "-P", sys.argv[2], path], input=b'"conv1/conv1/kernel:0"\\n',
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(path, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 - os.path.getsize(path) / 2**20)
"""


def test_the_process_that_reads_hdf5_takes_little_memory(refusals):
    """Measured from a process that is itself small: the peak of a process counts what its parent had."""
    paths = [path for name, (path, *_) in refusals.items() if name.endswith(".h5") and path.is_file()]
    command = [sys.executable, "-I", "-S", "-c", MEASURE, sys.executable, str(hdf5._WORKER), *paths]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(paths)
    for line in lines:
        assert float(line.split()[-1]) < 200, line


def test_nan_is_taken_when_allowed(refusals):
    weights = read_weights(refusals["nan.h5"][0], allow_nonfinite=True)
    assert np.isnan(weights.tensors["batch_stats.conv_dw_5_bn.mean"][3])


def test_good_files_are_read(tmp_path):
    expected = random_tensors()
    write_safetensors(tmp_path / "w.safetensors")
    write_archive(tmp_path / "w.keras", write_keras_3(tmp_path / "w.weights.h5"))
    for path in (
        write_keras_2(tmp_path / "w.h5"),
        *(tmp_path / f"w{s}" for s in (".weights.h5", ".keras", ".safetensors")),
    ):
        found = read_weights(path).tensors
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("name", ["w.weights.h5", "w.safetensors", "w.keras", "w"])
def test_what_a_file_is_is_seen_from_its_content(tmp_path, name):
    shutil.copy(write_keras_2(tmp_path / "w.h5"), tmp_path / name)
    assert read_weights(tmp_path / name).architecture == BACKBONE


def test_a_missing_file_is_named():
    with pytest.raises(WeightsError, match="nowhere.h5: no such file of weights"):
        read_weights("nowhere.h5")
