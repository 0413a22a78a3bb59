"""When to stop: Keras's `EarlyStopping` (`keras/src/callbacks/early_stopping.py`), as a function of the history."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple


class EarlyStopping(NamedTuple):
    """The settings of Keras's callback, with their meaning there.

    Attributes:
        monitor: the name of the figure.
        mode: whether it is to fall or to rise; `"auto"` lets losses fall and everything else rise.
        min_delta: a change smaller than this is no improvement.
        patience: after so many epochs without improvement training stops.
        baseline: a value to be bettered too: while it is not, patience runs out whatever else improves. None if there
            is none.
        start_from_epoch: so many epochs are not looked at.
    """

    monitor: str = "val_loss"
    mode: Literal["auto", "min", "max"] = "auto"
    min_delta: float = 0.0
    patience: int = 0
    baseline: float | None = None
    start_from_epoch: int = 0

    def verdict(self, values: Sequence[float]) -> tuple[int | None, int | None]:
        """Looks at a run from its beginning.

        Args:
            values: the monitored figure, epoch by epoch. NaN is never an improvement.

        Returns:
            The number of epochs after which training stops, None if it goes on; and the epoch, counted from 1, whose
            weights are the best, None before there is one.
        """
        best, best_epoch, wait = math.nan, None, 0
        for epoch, value in enumerate(values, start=1):
            if epoch <= self.start_from_epoch:
                continue
            wait += 1
            if best_epoch is None and not math.isnan(value):
                best_epoch, improved = epoch, True
            else:
                improved = self._better(value, best)
            if improved:
                best, best_epoch = value, epoch
                if self.baseline is None or self._better(value, self.baseline):
                    wait = 0
            elif wait >= self.patience and epoch > 1:
                return epoch, best_epoch
        return None, best_epoch

    def _better(self, value: float, reference: float) -> bool:
        falls = self.mode == "min" or (self.mode == "auto" and self.monitor.endswith("loss"))
        return value + self.min_delta < reference if falls else value - self.min_delta > reference
