"""How a run is asked to stop: SIGTERM, as clusters send before they take a machine, and Ctrl-C."""

import signal
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """While it is entered, the first signal is only noted; a second Ctrl-C stops at once.

    Of several processes, JAX lets all stop after the same step once one has had a SIGTERM.
    """

    def __init__(self) -> None:
        self._asked = False
        self._signals = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ()

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in self._signals}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked_at(self, step: int) -> bool:
        """Whether to stop after a step, by its number in this process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
