"""Reads weights files through another process, which a damaged or hostile file may crash.

The process is a script: `hdf5_worker.py` or `checkpoint_worker.py`. It first writes the list of the tensors as one line
of JSON. Then it reads names from stdin, one JSON string per line, and answers each with a line of JSON and the bytes of
the tensor. A line may instead hold an `error`.
"""

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
from mobilenet_jax.weights.layout import Shape, get_byte_count

_MAX_LINE = 32 << 20  # bytes; the list of a MobileNet's datasets has about 20 kB, the JSON of its model 100 kB
_MAX_ERROR = 400  # characters
_WINDOWS_CRASH = 0x80000000  # the exit status of a crash on Windows is at least this


class WorkerFile:
    """A file that is open in another process.

    Attributes:
        datasets: `shape` and `dtype` of each tensor, by its name in the file. Of HDF5 also `layer`, the name of its
            layer, which Keras 3 records, and `position`, those of its layer in the model and of itself in the layer,
            which Keras 1 and 2 record; either can be None.
        attributes: of HDF5, some attributes of the file that are text, by name: `backend`, `model_config`, and this
            project's metadata.
    """

    def __init__(self, process: subprocess.Popen[bytes], script: Path):
        self._process, self._script = process, script
        self._input, self._output = cast(BinaryIO, process.stdin), cast(BufferedReader, process.stdout)
        content = self._receive()
        self.datasets: dict[str, dict[str, Any]] = content["datasets"]
        self.attributes: dict[str, str] = content.get("attributes", {})

    def read(self, path: str, shape: Shape) -> np.ndarray:
        """Reads a float32 tensor.

        Args:
            path: its name in the file.
            shape: its shape, which has been compared with that of the model.

        Raises:
            WeightsError: its bytes are not all in the file, or expand to more than its size.
        """
        with contextlib.suppress(BrokenPipeError):  # the worker has ended, and its last answer contains the reason
            self._input.write(json.dumps(path).encode() + b"\n")
            self._input.flush()
        self._receive()
        content = bytearray(get_byte_count(shape))
        if self._output.readinto(content) != len(content):
            raise WeightsError(f"damaged: tensor {path} cannot be read")
        return np.frombuffer(content, np.float32).reshape(shape)

    def _receive(self) -> dict[str, Any]:
        line = self._output.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            # The status after a crash or a limit is a signal, which is negative, or one of Windows.
            if not line and 0 < self._process.wait() < _WINDOWS_CRASH:
                raise RuntimeError(
                    f"{self._script} ended with status {self._process.returncode}; run it to see the reason"
                )
            raise WeightsError("damaged: its library crashed, or took more memory or time than an intact file needs")
        answer = json.loads(line)
        if "error" in answer:
            raise WeightsError(answer["error"].partition("\n")[0][:_MAX_ERROR])
        return answer


@contextlib.contextmanager
def open_in_worker(script: Path, path: Path) -> Iterator[WorkerFile]:
    """Opens a file.

    Args:
        script: the script of the other process.
        path: the file.

    Raises:
        WeightsError: it is damaged, holds links, or exceeds a limit of the process.
    """
    command = [sys.executable, "-P", str(script), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield WorkerFile(process, script)
        finally:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                cast(BinaryIO, process.stdin).close()
