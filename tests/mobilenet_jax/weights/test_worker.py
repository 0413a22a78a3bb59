from io import BytesIO
from pathlib import Path

import pytest

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.worker import WorkerFile

SCRIPT = Path("hdf5_worker.py")


class _EndedProcess:
    """A worker that ended before its first answer."""

    def __init__(self, status):
        self.returncode, self.stdin, self.stdout = status, BytesIO(), BytesIO()

    def wait(self):
        return self.returncode


@pytest.mark.parametrize("status", [-11, 0, 0xC0000005])  # a signal, a closed pipe, an access violation of Windows
def test_a_worker_that_crashed_reports_a_damaged_file(status):
    with pytest.raises(WeightsError, match="damaged: its library crashed"):
        WorkerFile(_EndedProcess(status), SCRIPT)


def test_a_worker_that_cannot_start_is_a_bug():
    with pytest.raises(RuntimeError, match=r"hdf5_worker\.py ended with status 1"):
        WorkerFile(_EndedProcess(1), SCRIPT)
