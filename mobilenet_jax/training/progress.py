"""The progress bar of an epoch, shown on a terminal only."""

from types import TracebackType

import numpy as np
from tqdm import tqdm

from mobilenet_jax.cluster import is_first_process
from mobilenet_jax.training.step import BatchResult


class ProgressBar:
    """Shows the images of an epoch that are done, and the loss and accuracy of the last batch.

    Use as a context manager.
    """

    def __init__(self, title: str, *, batch_size: int, steps: int, steps_done: int):
        self._batch_size = batch_size
        self._bar = tqdm(
            total=steps * batch_size,
            initial=steps_done * batch_size,
            desc=title,
            unit=" images",
            bar_format="{desc} {percentage:3.0f}% |{bar}| {rate_fmt}, {remaining} left{postfix}",  # fits 80 columns
            disable=None if is_first_process() else True,  # None disables it where there is no terminal
            leave=False,
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()

    def update(self, result: BatchResult) -> None:
        """Advances by one batch."""
        if not self._bar.disable:
            loss, accuracy = np.mean(result.loss), np.mean(result.predicted == result.label)
            self._bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.2f}", refresh=False)
        self._bar.update(self._batch_size)
