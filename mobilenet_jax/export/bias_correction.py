"""Corrects biases for the rounding of kernels and activations: section 4.2 of Nagel et al. 2019 (arXiv:1906.04721).

The errors of a rounded kernel do not average out, because its inputs, results of ReLU6, are never negative: they shift
the mean of each channel, and 27 layers amplify the shift. The errors of rounded activations do not either, where an
image is smooth. The bias compensates the shift.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mobilenet_jax.export.network import Network, Params

_MAX_IMAGES = 64  # more change little


def correct_biases(
    network: Network, kernels: Mapping[str, np.ndarray], pixels: np.ndarray, *, round_activations: bool
) -> Params:
    """Returns the parameters of the folded network with rounded kernels, and with biases that fit them.

    From the first convolution to the last, each bias is shifted by the difference of the channel means that the
    rounding of this kernel and of the layers before makes.

    Args:
        network: the network.
        kernels: the rounded kernels of all convolutions, by the names of their layers, in the order of the network.
        pixels: uint8 `[n, height, width, 3]`, images that are typical for the use of the network.
        round_activations: whether the network will have 8-bit activations.
    """
    images = jnp.asarray(pixels[:_MAX_IMAGES])

    @functools.partial(jax.jit, static_argnames="rounded")
    def compute_means(params: Params, *, rounded: bool) -> dict[str, jax.Array]:
        activations = network.capture_activations(params, images, round_inputs=rounded)
        return {layer: x.mean((0, 1, 2)) for layer, x in activations.items()}

    _, variables = network.fold()
    params: Params = {layer: dict(tensors) for layer, tensors in variables["params"].items()}
    expected = compute_means(params, rounded=False)
    params |= {layer: {"kernel": kernel} for layer, kernel in kernels.items()}
    for layer in kernels:
        shift = np.asarray(expected[layer]) - np.asarray(compute_means(params, rounded=round_activations)[layer])
        params[f"{layer}_bn"] = {"bias": np.asarray(params[f"{layer}_bn"]["bias"]) + shift}
    return params
