"""Early stopping with the semantics of Keras, as a function of the history.

The reference is Keras's callback `EarlyStopping` (`keras/src/callbacks/early_stopping.py`). There is no state to save:
a resumed run evaluates the history from its first epoch.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

Mode = Literal["auto", "min", "max"]


def is_lower_better(monitor: str, mode: Mode) -> bool:
    """Returns whether a decrease of the metric `monitor` is an improvement.

    With mode `"auto"` losses should decrease and all other metrics increase.
    """
    return mode == "min" or (mode == "auto" and monitor.endswith("loss"))


class EarlyStopping(NamedTuple):
    """The settings of Keras's callback, with the same meaning.

    Attributes:
        monitor: the name of the metric.
        mode: whether the metric should decrease or increase, see `is_lower_better`.
        min_delta: the smallest change that counts as an improvement.
        patience: the number of epochs without improvement after which training stops.
        baseline: a value that the metric must also improve on: until it does, improvements over previous epochs do
            not reset the patience. None disables it.
        start_from_epoch: the number of epochs at the start of the run that are ignored.
    """

    monitor: str
    mode: Mode
    min_delta: float
    patience: int
    baseline: float | None
    start_from_epoch: int

    def find_stopping_epoch(self, values: Sequence[float]) -> int | None:
        """Finds the epoch after which training stops.

        Args:
            values: the monitored metric, one value per epoch from the first epoch on. NaN is never an improvement.

        Returns:
            The epoch, counted from 1, or None if training continues.
        """
        best: float | None = None
        wait = 0
        for epoch, value in enumerate(values, start=1):
            if epoch <= self.start_from_epoch:
                continue
            wait += 1
            improved = not math.isnan(value) if best is None else self._is_improvement(value, best)
            if improved:
                best = value
                if self.baseline is None or self._is_improvement(value, self.baseline):
                    wait = 0
            elif wait >= self.patience and epoch > 1:
                return epoch
        return None

    def _is_improvement(self, value: float, reference: float) -> bool:
        if is_lower_better(self.monitor, self.mode):
            return value + self.min_delta < reference
        return value - self.min_delta > reference
