"""Rounds kernels to 8 or 16 bits such that outputs change little: GPTQ, Frantar et al. 2023 (arXiv:2210.17323).

A kernel is rounded one input after another. The weights of the inputs that are still to be rounded compensate the error
that the rounding of one input makes in the outputs, as far as these inputs are correlated with it.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mobilenet_jax.export.network import Network
from mobilenet_jax.model.layers import DepthwiseConv, PointwiseConv, StemConv

NumberType = Literal["int8", "float16"]

_MAX_IMAGES = 64
_MAX_LEVEL = 127  # the levels of a weight are -127 to 127 times the scale of its filter
_DAMPING = 0.01  # share of the mean second moment that is added to the diagonal, as in the paper


def round_kernels(network: Network, pixels: np.ndarray, number_type: NumberType) -> dict[str, np.ndarray]:
    """Returns the rounded kernels of all convolutions, by the names of their layers, in the order of the network.

    The int8 scale of a filter is its largest weight divided by 127. Converters derive it from the rounded weights: they
    find the same levels, unless the largest weight was rounded to a smaller one.

    Args:
        network: the network.
        pixels: uint8 `[n, height, width, 3]`, images that are typical for the use of the network.
        number_type: the type of the weights in the file.
    """
    _, variables = network.fold()
    moments = _compute_moments(network, pixels[:_MAX_IMAGES])
    kernels = {layer: np.asarray(variables["params"][layer]["kernel"], np.float64) for layer in moments}
    return {layer: _round_kernel(kernels[layer], moment, number_type) for layer, moment in moments.items()}


def _round_kernel(kernel: np.ndarray, moments: np.ndarray, number_type: NumberType) -> np.ndarray:
    """Rounds a kernel `[height, width, input, output]`; `moments` are `[k, k]`, or `[channels, k, k]` if depthwise."""
    if moments.ndim == 2:
        matrix = kernel.reshape(len(moments), -1)
        return round_matrix(matrix, moments, number_type).reshape(kernel.shape).astype(np.float32)
    filters = kernel.reshape(moments.shape[1], -1)
    rounded = [round_matrix(filters[:, [i]], moments[i], number_type) for i in range(len(moments))]
    return np.concatenate(rounded, 1).reshape(kernel.shape).astype(np.float32)


def round_matrix(weights: np.ndarray, moments: np.ndarray, number_type: NumberType) -> np.ndarray:
    """Rounds the weights of linear outputs `x @ weights`, with a small error of the outputs.

    Args:
        weights: float64 `[inputs, outputs]`.
        moments: float64 `[inputs, inputs]`, the sum or mean of `outer(x, x)` over typical inputs.
        number_type: the type to round to; each column has an int8 scale of its own.

    Returns:
        float64 `[inputs, outputs]`.
    """
    order = np.argsort(-np.diag(moments))  # inputs that matter least come last, and compensate most of the error
    weights, moments = weights[order], moments[np.ix_(order, order)]
    round_row = _make_rounding(weights, number_type)
    damped = moments + (_DAMPING * np.diag(moments).mean() + np.finfo(np.float32).tiny) * np.eye(len(moments))
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T  # upper triangular: section 3.3 of the paper
    adjusted, rounded = weights.copy(), np.empty_like(weights)
    for i, row in enumerate(factor):
        rounded[i] = round_row(adjusted[i])
        adjusted[i + 1 :] -= np.outer(row[i + 1 :], (adjusted[i] - rounded[i]) / row[i])
    return rounded[np.argsort(order)]


def _make_rounding(weights: np.ndarray, number_type: NumberType) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function that rounds one row of a matrix, without regard to other rows."""
    if number_type == "float16":
        return lambda row: row.astype(np.float16)
    scale = np.maximum(np.abs(weights).max(0), np.finfo(np.float32).tiny) / _MAX_LEVEL
    return lambda row: np.clip(np.round(row / scale), -_MAX_LEVEL, _MAX_LEVEL) * scale


def _compute_moments(network: Network, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the second moments of the inputs of each convolution, float64, by the names of the layers.

    The shape is `[k, k]`, where the inputs are those of one output value; `[channels, 9, 9]` if depthwise.
    """
    model, variables = network.fold()

    def compute(images: jax.Array) -> dict[str, jax.Array]:
        moments = {}

        def record(next_method, args, kwargs, context):  # type: ignore[no-untyped-def]
            if isinstance(context.module, StemConv | DepthwiseConv | PointwiseConv):
                moments[str(context.module.name)] = _compute_moment(context.module, args[0])
            return next_method(*args, **kwargs)

        with nn.intercept_methods(record):
            model.apply(variables, network.to_input_range(images), train=False)
        return moments

    return network.sum_by_layer(compute, pixels)


def _compute_moment(layer: nn.Module, x: jax.Array) -> jax.Array:
    """Computes the second moments of the inputs `[n, height, width, channels]` of a convolution, see above."""
    if isinstance(layer, PointwiseConv):
        return jnp.einsum("nhwc,nhwd->cd", x, x)
    if isinstance(layer, DepthwiseConv):
        patches = _extract_patches(jnp.pad(x, ((0, 0), *layer.padding, (0, 0))), layer.stride)
        return jnp.einsum("nhwic,nhwjc->cij", patches, patches)
    patches = _extract_patches(x, 2)
    patches = patches.reshape(*patches.shape[:3], -1)
    return jnp.einsum("nhwi,nhwj->ij", patches, patches)


def _extract_patches(x: jax.Array, stride: int) -> jax.Array:
    """Returns the nine values that each output value of a 3x3 convolution reads, `[n, height, width, 9, channels]`."""
    height, width = ((size - 3) // stride * stride + 1 for size in x.shape[1:3])
    shifted = [x[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
    return jnp.stack(shifted, 3)
