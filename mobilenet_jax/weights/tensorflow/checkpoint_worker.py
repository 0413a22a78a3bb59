"""Reads a TensorFlow checkpoint in a separate process, because TensorFlow ends the process on some damaged files.

    python -P checkpoint_worker.py PREFIX

`worker.py` runs it and describes its input and output. It imports nothing of the package. No graph is built or run.
"""

import json
import os
import signal
import sys
from typing import Any

import numpy as np
import tensorflow as tf

MAX_FILE = 1 << 30  # bytes; larger files get no more memory and time
MAX_TENSORS = 10_000  # a MobileNet with its optimizer's variables has about 500


def limit_resources(prefix: str) -> None:
    """Ends this process when it takes more memory or time than an intact checkpoint of this size needs.

    Only Linux has both limits. macOS limits the time, Windows nothing.
    """
    size = min(sum(os.path.getsize(prefix + suffix) for suffix in (".index", ".data-00000-of-00001")), MAX_FILE)
    if os.path.exists("/proc/self/statm"):
        import resource  # POSIX only

        with open("/proc/self/statm") as statm:
            current = int(statm.read().split()[0]) * resource.getpagesize()
        limit = current + (256 << 20) + 5 * size
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 20 + size / 2e6)  # seconds, on a busy machine


def send(content: dict[str, Any], array: np.ndarray | None = None) -> None:
    """Writes one line of JSON, and after it an array's bytes."""
    sys.stdout.buffer.write(json.dumps(content).encode() + b"\n")
    if array is not None:
        sys.stdout.buffer.write(array.data)
    sys.stdout.buffer.flush()


def serve(prefix: str) -> None:
    """Lists the variables of a checkpoint, and then reads those that stdin requests."""
    reader = tf.train.load_checkpoint(prefix)
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    if len(shapes) > MAX_TENSORS:
        raise ValueError(f"not a MobileNet: it holds more than {MAX_TENSORS} variables")
    send({"datasets": {name: {"shape": shape, "dtype": types[name].name} for name, shape in shapes.items()}})
    for line in sys.stdin:
        send({}, np.ascontiguousarray(reader.get_tensor(json.loads(line))))


if __name__ == "__main__":
    try:
        limit_resources(sys.argv[1])
        serve(sys.argv[1])
    except Exception as error:  # TensorFlow raises many types for damaged files
        send({"error": f"damaged, or not weights ({str(error) or type(error).__name__})"})
