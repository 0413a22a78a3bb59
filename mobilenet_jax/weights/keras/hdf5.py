"""HDF5 files, read by another process (`hdf5_worker.py`), which a damaged or hostile file may crash."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.layout import Shape, size

_WORKER = Path(__file__).with_name("hdf5_worker.py")
_MAX_ANSWER = 32 << 20  # bytes of a line; the list of a MobileNet has some 20 kB, the JSON of its model 100 kB


class File:
    """An HDF5 file while it is open.

    Attributes:
        datasets: each dataset's `shape`, `dtype` and `layer` (what Keras 3 calls it; None if it does not) by its path.
        attributes: the texts of some attributes by name: `backend`, `model_config`, and this project's own.
    """

    def __init__(self, process: subprocess.Popen[bytes]):
        self._process = process
        self._to, self._from = cast(BinaryIO, process.stdin), cast(BufferedReader, process.stdout)
        listed = self._answer()
        self.datasets: dict[str, dict[str, Any]] = listed["datasets"]
        self.attributes: dict[str, str] = listed["attributes"]

    def read(self, path: str, shape: Shape) -> np.ndarray:
        """A float32 dataset.

        Raises:
            WeightsError: its bytes are not all in the file, or expand to more than its size.
        """
        with contextlib.suppress(BrokenPipeError):  # its answer says why
            self._to.write(json.dumps(path).encode() + b"\n")
            self._to.flush()
        self._answer()
        content = bytearray(size(shape))
        if self._from.readinto(content) != len(content):
            raise WeightsError(f"damaged: reading tensor {path} failed")
        return np.frombuffer(content, np.float32).reshape(shape)

    def _answer(self) -> dict[str, Any]:
        line = self._from.readline(_MAX_ANSWER)
        if not line.endswith(b"\n"):
            if not line and self._process.wait() > 0:  # a signal's number would be negative
                raise RuntimeError(f"{_WORKER} ended with status {self._process.returncode}; run it to see why")
            raise WeightsError("damaged: HDF5 crashed, or took more memory or time than a good file of its size needs")
        answer = json.loads(line)
        if "error" in answer:
            raise WeightsError(answer["error"].partition("\n")[0][:400])
        return answer


@contextlib.contextmanager
def opened(path: Path) -> Iterator[File]:
    """Opens an HDF5 file.

    Raises:
        WeightsError: it is damaged, holds links, or there is no end of it.
    """
    command = [sys.executable, "-P", str(_WORKER), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield File(process)
        finally:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                cast(BinaryIO, process.stdin).close()
