"""Requests to stop a run: SIGTERM, which clusters send before they reclaim a machine, and Ctrl-C."""

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from mobilenet_jax.training.step import DeviceBatch


class StopRequest:
    """Records the first signal while the context is active; a second Ctrl-C raises `KeyboardInterrupt` at once.

    With several processes, JAX receives SIGTERM and makes all of them stop after the same step. In a thread other than
    the main one, where Python allows no handlers, nothing is recorded.
    """

    def __init__(self) -> None:
        self._requested = False
        self._steps = 0  # the number of calls of `end_step`
        can_record = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        self._signals = (signal.SIGTERM, signal.SIGINT) if can_record else ()

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._record) for number in self._signals}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def is_set(self) -> bool:
        """Whether the run is to stop; the same in all processes, and once true, it stays true."""
        return self._requested

    def end_step(self) -> None:
        """Lets the processes agree after a step of training or evaluation. All of them call it after every step.

        JAX lets the processes stop at the same count: one more than the highest that any of them had reached when the
        signal was noticed, which is 0 before the first step. The count must therefore begin with 1 in every process,
        whatever step a run continues from, and only grow. Nothing else may report counts to JAX's synchronization
        point, see `checkpoints.py`.
        """
        self._steps += 1
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(self._steps):
            self._requested = True

    def iterate_until_set(self, batches: Iterable[DeviceBatch]) -> Iterator[DeviceBatch]:
        """Yields the batches of an evaluation until the run is to stop; each is a step of `end_step`."""
        if self.is_set:
            return
        for batch in batches:
            yield batch
            self.end_step()
            if self.is_set:
                return

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._requested = True
