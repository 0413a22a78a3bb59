"""Corrects biases for the rounding of kernels: section 4.2 of Nagel et al. 2019 (arXiv:1906.04721).

The errors of a rounded kernel do not average out, because its inputs, results of ReLU6, are never negative: they shift
the mean of each channel, and 27 layers amplify the shift. The bias takes it back.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mobilenet_jax.export.network import Network, Params

_MAX_IMAGES = 64  # more change little


def correct_biases(network: Network, kernels: Mapping[str, np.ndarray], pixels: np.ndarray) -> Params:
    """Returns the parameters of the folded network with rounded kernels, and with biases that fit them.

    From the first convolution to the last, each bias is shifted by the difference of the channel means that the
    rounding of this kernel, and of those before, makes.

    Args:
        network: the network.
        kernels: the rounded kernels of all convolutions, by the names of their layers, in the order of the network.
        pixels: uint8 `[n, height, width, 3]`, images that are typical for the use of the network.
    """
    images = jnp.asarray(pixels[:_MAX_IMAGES])

    @jax.jit
    def compute_means(params: Params) -> dict[str, jax.Array]:
        return {layer: x.mean((0, 1, 2)) for layer, x in network.capture_activations(params, images).items()}

    _, variables = network.fold()
    params: Params = {layer: dict(tensors) for layer, tensors in variables["params"].items()}
    expected = compute_means(params)
    params |= {layer: {"kernel": kernel} for layer, kernel in kernels.items()}
    for layer in kernels:
        shift = np.asarray(expected[layer]) - np.asarray(compute_means(params)[layer])
        params[f"{layer}_bn"] = {"bias": np.asarray(params[f"{layer}_bn"]["bias"]) + shift}
    return params
