"""Fine-tunes a network for rounding to 8-bit integers, as in Jacob et al. 2018 (arXiv:1712.05877).

The network learns to return, with rounded kernels and activations, the probabilities that it returned before. It needs
no labels. Gradients pass the rounding unchanged.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from mobilenet_jax.export.network import Network
from mobilenet_jax.model.layers import ReLU6
from mobilenet_jax.model.preprocessing import scale_pixels

_BATCH_SIZE = 32
_LEARNING_RATE = 1e-4  # with Adam; decays to 0
_Params = dict[str, dict[str, Any]]


def fine_tune(network: Network, params: _Params, pixels: np.ndarray, steps: int) -> _Params:
    """Returns parameters of the folded network that lose less by rounding.

    Args:
        network: the network, with a classifier.
        params: the parameters to start from.
        pixels: uint8 `[n, height, width, 3]`, images that are typical for the use of the network.
        steps: the number of batches of 32 images.
    """
    model, variables = Network(network.weights).fold()

    def compute_logits(params: _Params, pixels: jax.Array) -> jax.Array:
        logits: Any = model.apply({"params": params}, scale_pixels(pixels, network.input_scaling), train=False)
        return logits

    @jax.jit
    def compute_targets(pixels: jax.Array) -> jax.Array:
        return jax.nn.softmax(compute_logits(variables["params"], pixels))

    def compute_loss(params: _Params, pixels: jax.Array, targets: jax.Array) -> jax.Array:
        with nn.intercept_methods(_round_activations):
            logits = compute_logits(jax.tree.map(_round_kernel, params), pixels)
        return optax.softmax_cross_entropy(logits, targets).mean()

    @jax.jit
    def take_step(params: _Params, state: Any, pixels: jax.Array) -> tuple[_Params, Any]:
        gradients = jax.grad(compute_loss)(params, pixels, compute_targets(pixels))
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, steps))
    params = jax.tree.map(jnp.asarray, params)
    state, rng = optimizer.init(params), np.random.default_rng(0)
    for _ in range(steps):
        batch = pixels[rng.choice(len(pixels), _BATCH_SIZE)]
        params, state = take_step(params, state, jnp.asarray(batch))
    return jax.tree.map(np.asarray, params)


def _round_kernel(kernel: jax.Array) -> jax.Array:
    """Rounds a kernel to 255 levels with a scale for each output channel; keeps a bias, which has 32 bits."""
    if kernel.ndim == 1:
        return kernel
    scale = jnp.abs(kernel).max(tuple(range(kernel.ndim - 1)), keepdims=True) / 127
    return _round(kernel, jnp.where(scale > 0, scale, 1))


def _round_activations(method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    """Rounds the results of ReLU6 to 256 levels; a function for `nn.intercept_methods`."""
    result = method(*args, **kwargs)
    return _round(result, result.max() / 255 + 1e-9) if isinstance(context.module, ReLU6) else result


def _round(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Rounds to multiples of `scale`; the gradient is that of the identity."""
    return x + jax.lax.stop_gradient(jnp.round(x / scale) * scale - x)
