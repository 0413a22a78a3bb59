"""Corrects biases for the rounding of kernels: section 4.2 of Nagel et al. 2019 (arXiv:1906.04721).

The errors of a rounded kernel do not average out, because its inputs, results of ReLU6, are never negative: they shift
the mean of each channel, and 27 layers amplify the shift. The bias takes it back.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mobilenet_jax.export.network import Network
from mobilenet_jax.model.layers import Bias

_MAX_IMAGES = 64  # more change little
_Params = dict[str, dict[str, Any]]


def correct_biases(network: Network, round_kernel: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> _Params:
    """Returns the parameters of the folded network with biases that fit rounded kernels. The kernels are not rounded.

    From the first convolution to the last, each bias is shifted by the difference of the channel means that the
    rounding of this kernel, and of those before, makes.

    Args:
        network: the network.
        round_kernel: rounds a kernel `[height, width, input, output]` as the converter will.
        pixels: uint8 `[n, height, width, 3]`, images that are typical for the use of the network.
    """
    model, variables = network.fold()
    images = jnp.asarray(pixels[:_MAX_IMAGES])

    @jax.jit
    def compute_means(params: _Params) -> dict[str, jax.Array]:
        _, state = model.apply(
            {"params": params},
            network.scale(images),
            train=False,
            capture_intermediates=_is_bias,
            mutable=["intermediates"],
        )
        return {layer: results["__call__"][0].mean((0, 1, 2)) for layer, results in state["intermediates"].items()}

    params = {layer: dict(tensors) for layer, tensors in variables["params"].items()}
    expected = compute_means(params)
    layers = [name for name in params if f"{name}_bn" in expected]
    rounded = {**params}
    for layer in layers:
        rounded[layer] = {"kernel": round_kernel(np.asarray(params[layer]["kernel"]))}
    for norm in (f"{layer}_bn" for layer in layers):
        shift = np.asarray(expected[norm]) - np.asarray(compute_means(rounded)[norm])
        rounded[norm] = {"bias": np.asarray(rounded[norm]["bias"]) + shift}
    return {layer: rounded[layer] if layer.endswith("_bn") else tensors for layer, tensors in params.items()}


def _is_bias(module: nn.Module, method: str) -> bool:
    return isinstance(module, Bias) and str(module.name).startswith("conv")
