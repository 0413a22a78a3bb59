"""Re-estimates the statistics of batch normalization for evaluation.

The moving statistics of training lag behind the weights: with a momentum of 0.99 they average over 100 steps, and still
hold 5% of their initial values after 300. On small data, where the weights move fast, the evaluation of a good model
can then be at chance level. The remedy is "PreciseBN" of Wu and Johnson 2021 (arXiv:2105.07576, section 3): forward
passes over training images with the weights fixed, whose statistics are averaged.

The estimate is a function of the parameters and the images, and training continues with its own moving statistics. So
there is no state to save, and training does not depend on it.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.sharding import gather_to_host, make_data_mesh, replicate
from mobilenet_jax.training.step import DeviceBatch, TrainState

StatisticsEstimator = Callable[[TrainState, Iterable[DeviceBatch]], Any]


def make_statistics_estimator(model: MobileNet) -> StatisticsEstimator:
    """Builds the estimator of the statistics of batch normalization.

    Each batch is normalized by its own statistics, as in training, but without dropout. Statistics that training keeps,
    those of frozen blocks, are returned unchanged, to the bit.

    Returns:
        A function `(state, batches) -> batch_stats`. `batches` is not empty, and its batches hold `image`
        `[batch, height, width, 3]`, all of one size. The statistics are those of `state.evaluated_params`. They are
        copied to all devices.
    """
    observer = model.clone(dropout=0.0, batch_norm_momentum=0.0)  # without momentum, the statistics are the batch's

    def estimate(state: TrainState, batches: Iterable[DeviceBatch]) -> Any:
        # 0.1 MB each at alpha 1
        statistics = [gather_to_host(_measure(observer, state, batch["image"])) for batch in batches]
        return replicate(make_data_mesh(), pool_statistics(statistics))

    return estimate


@functools.partial(jax.jit, static_argnums=0)
def _measure(observer: MobileNet, state: TrainState, images: jax.Array) -> Any:
    variables = {"params": state.evaluated_params, "batch_stats": state.batch_stats}
    return observer.apply(variables, images, train=True, mutable=["batch_stats"])[1]["batch_stats"]


def pool_statistics(batches: Sequence[Any]) -> Any:
    """Computes the statistics of all images from those of batches of equal size.

    The mean is the average of the means of the batches. The variance is the average of their variances plus the
    variance of their means. The average of the variances alone is too small, most of all in the last blocks, where a
    batch has few positions per channel.

    Args:
        batches: NumPy arrays as in the collection `batch_stats`, `{LAYER: {"mean", "var"}}`, each `[channels]`.

    Returns:
        The same structure and types.
    """

    def pool(layer: str) -> dict[str, np.ndarray]:
        means, variances = (np.stack([batch[layer][name] for batch in batches]) for name in ("mean", "var"))
        # Sums of equal float32 numbers are exact in float64, so statistics that are constant are unchanged.
        mean = means.mean(0, np.float64)
        variance = variances.mean(0, np.float64) + means.var(0, np.float64)
        return {"mean": mean.astype(means.dtype), "var": variance.astype(variances.dtype)}

    return {layer: pool(layer) for layer in batches[0]}
