"""Requests to stop a run: SIGTERM, which clusters send before they reclaim a machine, and Ctrl-C."""

import signal
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Records the first signal while the context is active; a second Ctrl-C raises `KeyboardInterrupt` at once.

    With several processes, JAX receives SIGTERM and makes all of them stop after the same step.
    """

    def __init__(self) -> None:
        self._requested = False
        self._signals = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ()

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._record) for number in self._signals}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def is_set(self, step: int) -> bool:
        """Returns whether to stop after a step, the same in all processes; once true, it stays true.

        Args:
            step: the number of steps since the beginning of the run. JAX agrees on one step for all processes, and
                Orbax calls the same synchronization point, so every caller must count from the same origin.
        """
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self._requested = True
        return self._requested

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._requested = True
