"""Profiling: traces of training steps for TensorBoard, and memory use."""

import contextlib
import ctypes
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import psutil

_logger = logging.getLogger(__name__)

_SKIPPED_STEPS = 5  # compilation and the first, slower steps
_TRACED_STEPS = 10


class Profiler:
    """Traces ten steps of a run, or fewer if their epoch ends before. Does nothing without a folder."""

    def __init__(self, folder: Path | None):
        self._folder = folder
        self._steps = 0  # counts the steps that this process has begun
        self._trace_start: int | None = None

    def start_step(self, state: Any) -> None:
        """Starts or stops the trace where the next step begins.

        Args:
            state: the arrays that the previous step returned. Stopping waits for them, so that the step is traced.
        """
        if self._folder is None:
            return
        if self._steps == _SKIPPED_STEPS:
            jax.profiler.start_trace(self._folder)
            self._trace_start = self._steps
        elif self._steps == _SKIPPED_STEPS + _TRACED_STEPS:
            jax.block_until_ready(state)
            self._stop_trace()
        self._steps += 1

    @contextlib.contextmanager
    def trace_epoch(self) -> Iterator[None]:
        """Stops the trace at the end of an epoch, or after an error: it would include the evaluation."""
        try:
            yield
        finally:
            self._stop_trace()

    def end_run(self) -> None:
        """Logs a warning if there is no trace because there were too few steps."""
        if self._folder is not None and self._steps <= _SKIPPED_STEPS:
            _logger.warning("no trace: it starts after %d steps, and there were %d", _SKIPPED_STEPS, self._steps)

    def _stop_trace(self) -> None:
        if self._trace_start is not None:
            jax.profiler.stop_trace()
            traced = self._steps - self._trace_start
            _logger.info("trace of %d steps in %s, for `tensorboard --logdir`", traced, self._folder)
            self._trace_start = None


def measure_memory() -> float:
    """Returns the memory use in MB: the peak of the first local device if JAX reports it, else the resident memory."""
    stats = jax.local_devices()[0].memory_stats()
    return round((stats["peak_bytes_in_use"] if stats else psutil.Process().memory_info().rss) / 1e6, 1)


def release_free_memory() -> None:
    """Releases malloc's free memory to the operating system: some 300 MB after a compilation."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc
        libc.malloc_trim(0)
