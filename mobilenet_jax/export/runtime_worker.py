"""Runs an exported file with its own runtime, in a process of its own: a runtime may crash on a file, and some cannot
change their number of threads.

    python -m mobilenet_jax.export.runtime_worker FILE THREADS INPUTS.npy OUTPUTS.npy

Each input is run on its own, and once more to measure the time. It prints the median of the milliseconds per input.
"""

import contextlib
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from input_pipeline.errors import get_first_line
from mobilenet_jax.export.formats import get_format

_WARM_UP = 3  # runs before the time is measured


def main() -> None:
    """Runs all inputs, and prints the time per input."""
    file, threads, inputs_file, outputs_file = sys.argv[1:]
    _limit_cores(int(threads))
    run = get_format(Path(file)).load_module().load(Path(file), int(threads))
    inputs = np.load(inputs_file)
    np.save(outputs_file, np.concatenate([run(image[None]) for image in inputs]))
    for image in inputs[:_WARM_UP]:
        run(image[None])
    milliseconds = []
    for image in inputs:
        start = time.perf_counter()
        run(image[None])
        milliseconds.append(1000 * (time.perf_counter() - start))
    print(statistics.median(milliseconds))


def _limit_cores(threads: int) -> None:
    """Restricts the process to as many cores as it has threads, where the system can: XLA takes a thread per core."""
    with contextlib.suppress(AttributeError):  # macOS and Windows
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # runtimes raise almost anything
        sys.exit(f"{type(error).__name__}: {get_first_line(error)}")
