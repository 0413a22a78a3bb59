"""Files that are damaged or malicious: each is refused in one line, quickly, and in little memory."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mobilenet_jax.weights.keras import files as keras_files
from mobilenet_jax.weights.load import read_weights
from tests.helpers.hostile.cases import CASES
from tests.helpers.hostile.files import PICKLE_MARKER
from tests.helpers.weights_files import write_keras_2

READ_ALL = """
import json, logging, os, resource, sys
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights import orbax
from mobilenet_jax.weights.load import read_weights

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def count_seconds():
    return sum(os.times()[:4])  # of processors, in this process and those that it has started

logging.disable()
good, *paths = sys.argv[1:]
read_weights(good)
before = peak()
for path in paths:
    start = count_seconds()
    try:
        read_weights(path)
        message = "it was read"
    except WeightsError as error:
        message = str(error)
    print(json.dumps([message, count_seconds() - start, peak() - before]), flush=True)
"""


OF_TENSORFLOW = "a_damaged_index.ckpt.index"  # which takes five seconds to start, to write the file and to read it


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    return read_files([name for name in CASES if name != OF_TENSORFLOW], tmp_path_factory.mktemp("hostile"))


def read_files(names, folder):
    """Writes files, and reads them in another process.

    Returns, by file name, the path, the error, the processor's seconds it took, and the peak of memory so far in MB.
    """
    paths = {name: folder / name for name in names}
    for name, path in paths.items():
        CASES[name].write(path)
    good = write_keras_2(folder / "good.h5")
    command = [sys.executable, "-c", READ_ALL, good, *paths.values()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stderr == ""
    return {n: (paths[n], *json.loads(line)) for n, line in zip(names, result.stdout.splitlines(), strict=True)}


@pytest.mark.parametrize("name", [name for name in CASES if name != OF_TENSORFLOW])
def test_hostile_files_are_refused_in_one_line_with_little_time_and_memory(refusals, name):
    check_refusal(name, *refusals[name], limit=2)


@pytest.mark.slow
def test_a_damaged_checkpoint_of_tensorflow_is_refused_in_one_line(tmp_path):
    check_refusal(OF_TENSORFLOW, *read_files([OF_TENSORFLOW], tmp_path)[OF_TENSORFLOW], limit=30)


def check_refusal(name, path, message, seconds, megabytes, limit):
    assert CASES[name].message in message
    assert message.startswith(str(path))
    assert message.isprintable()
    assert seconds < limit
    size = path.stat().st_size / 2**20 if path.is_file() else 0
    assert megabytes < 200 + size
    assert not Path(PICKLE_MARKER).exists()


MEASURE = """
import os, resource, subprocess, sys
for path in sys.argv[3:]:
    subprocess.run([sys.argv[1], "-P", sys.argv[2], path], input=b'"conv1/conv1/kernel:0"\\n',
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(path, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 - os.path.getsize(path) / 2**20)
"""


@pytest.mark.parametrize(
    "names", [r"(tera|giga|a_larger_bomb|endless_z).*", pytest.param(r".*", marks=pytest.mark.slow)]
)
def test_the_process_that_reads_hdf5_takes_little_memory(refusals, names):
    """It is measured from a small process: the peak of a process includes the memory its parent had."""
    pattern = re.compile(rf"{names}\.h5")
    paths = [path for name, (path, *_) in refusals.items() if pattern.search(name) and path.is_file()]
    command = [sys.executable, "-I", "-S", "-c", MEASURE, sys.executable, str(keras_files._WORKER), *paths]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(paths) > 3
    for line in lines:
        assert float(line.split()[-1]) < 200, line


def test_nan_is_accepted_if_allowed(refusals):
    weights = read_weights(refusals["nan.h5"][0], allow_nonfinite=True)
    assert np.isnan(weights.tensors["batch_stats.conv_dw_5_bn.mean"][3])
