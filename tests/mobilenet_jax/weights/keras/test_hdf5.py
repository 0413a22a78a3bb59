import os
import signal
import sys
from io import BytesIO

import pytest

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.keras.hdf5_worker import limit_resources
from mobilenet_jax.weights.worker import WorkerFile


def test_systems_without_limits_read_without_limits(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delattr(signal, "setitimer")
    monkeypatch.setattr(os.path, "exists", lambda path: False)  # of /proc
    limit_resources(1000)


class _EndedProcess:
    """A worker that ended before its first answer."""

    def __init__(self, status):
        self.returncode, self.stdin, self.stdout = status, BytesIO(), BytesIO()

    def wait(self):
        return self.returncode


@pytest.mark.parametrize("status", [-11, 0, 0xC0000005])  # a signal, a closed pipe, an access violation of Windows
def test_a_worker_that_crashed_reports_a_damaged_file(status):
    with pytest.raises(WeightsError, match="damaged: HDF5 crashed"):
        WorkerFile(_EndedProcess(status), Path("hdf5_worker.py"))


def test_a_worker_that_cannot_start_is_a_bug():
    with pytest.raises(RuntimeError, match="ended with status 1"):
        WorkerFile(_EndedProcess(1), Path("hdf5_worker.py"))
