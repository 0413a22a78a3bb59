"""Scales channels so that 8-bit activations resolve them, after section 4.1 of Nagel et al. 2019 (arXiv:1906.04721).

All channels of a tensor share one step, 6/255 after ReLU6. A channel with values up to 0.5 has 21 levels only. A factor
for its kernel and its bias, and the inverse for the kernel that reads it, give it more levels, and leave the network
the same up to values that ReLU6 now cuts off. Nagel et al. make the ranges equal; here each factor minimizes the error.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from mobilenet_jax.export.network import ACTIVATION_LEVELS, Network, Params, round_activation
from mobilenet_jax.weights.layout import HEAD_LAYERS

_FACTORS = 2.0 ** np.arange(0, 6.125, 0.125)
# XNNPACK refuses a kernel whose step is 256 times that of the output by that of the input or more, and LiteRT 2.3.0 may
# crash then. A trained channel that is always 0 has such a kernel if its variance is 0: batch normalization divides by
# the square root of epsilon. Half of the limit leaves room for an output that is smaller than 6.
_LARGEST_WEIGHT = 128 * 127


def equalize_channels(network: Network, pixels: np.ndarray) -> Params:
    """Returns the parameters of the folded network with scaled channels.

    The factor of a channel, from 1 to 64, minimizes the mean squared error of rounding and cutting off its values. It
    is smaller if a weight of the channel would become larger than runtimes accept. If the network has no head, the
    channels of the last convolution, its output, stay as they are.

    Args:
        network: the network.
        pixels: uint8 `[n, height, width, 3]`, images that are typical for the use of the network.
    """
    _, variables = network.fold()
    params: Params = {layer: dict(tensors) for layer, tensors in variables["params"].items()}
    errors = _measure_errors(network, params, pixels)
    head = network.weights.architecture.head
    for layer, reader in itertools.pairwise([*errors, *(HEAD_LAYERS[head][:1] if head else ())]):
        largest = np.abs(params[layer]["kernel"]).reshape(-1, errors[layer].shape[1]).max(0)
        limit = np.maximum(1, _LARGEST_WEIGHT / np.maximum(largest, 1))
        factor = np.minimum(_FACTORS[errors[layer].argmin(0)], limit).astype(np.float32)
        params[layer]["kernel"] = params[layer]["kernel"] * factor
        params[f"{layer}_bn"]["bias"] = params[f"{layer}_bn"]["bias"] * factor
        params[reader]["kernel"] = _divide_inputs(params[reader]["kernel"], factor, depthwise="_dw_" in reader)
    return params


def _divide_inputs(kernel: np.ndarray, factor: np.ndarray, *, depthwise: bool) -> np.ndarray:
    """Divides the weights of each input channel by its factor.

    A kernel is `[3, 3, 1, channels]` if depthwise. Else it ends in `[..., channels, outputs]`, or in `[positions *
    channels, outputs]` if it reads flattened features.
    """
    if depthwise:
        return kernel / factor
    return (kernel.reshape(-1, len(factor), kernel.shape[-1]) / factor[:, None]).reshape(kernel.shape)


def _measure_errors(network: Network, params: Params, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the sums of squared errors, `[factors, channels]`, by the names of the layers in their order."""

    def measure(images: jax.Array) -> dict[str, jax.Array]:
        activations = network.capture_activations(params, images)
        return {layer: _compute_errors(jnp.clip(x, 0, 6)) for layer, x in activations.items()}

    return network.sum_by_layer(measure, pixels)


def _compute_errors(x: jax.Array) -> jax.Array:
    """Computes the sums of squared errors for each factor, `[factors, channels]`, of values `[..., channels]`."""

    def compute(factor: jax.Array) -> jax.Array:
        rounded = round_activation(x, 6 / ACTIVATION_LEVELS / factor)
        return ((rounded - x) ** 2).sum((0, 1, 2))

    return jax.lax.map(compute, jnp.asarray(_FACTORS, x.dtype))
