"""Batch normalization with the statistics of the batch, and ReLU6, with gradients that save and read little.

Most of the time of these operations is that of reading and writing arrays. The gradients that JAX derives keep the
result of every operation for later; these keep the arrays that the neighboring convolutions keep anyway.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Normalized(NamedTuple):
    """The result of `normalize_batch`.

    Attributes:
        values: of the shape and type of the input.
        mean: `[channels]`.
        variance: `[channels]`, biased: that of the batch, not an estimate of the population's.
    """

    values: jax.Array
    mean: jax.Array
    variance: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_batch(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> Normalized:
    """Normalizes each channel by its mean and variance over the batch: algorithm 1 of Ioffe and Szegedy 2015.

    With r = 1 / sqrt(variance + epsilon), it computes y = s r (x - m) + b. For a gradient g of y and N positions, the
    gradients are db = sum g, ds = r sum g (x - m), and dx = s r (g - db / N - r (x - m) ds / N). The mean and the
    variance are for the moving statistics, and have no gradients.

    Args:
        x: `[batch, ..., channels]`.
        scale: s, `[channels]`.
        bias: b, `[channels]`.
        epsilon: added to the variance.
    """
    return _forward(x, scale, bias, epsilon)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[Normalized, tuple[jax.Array, ...]]:
    values, axes, n = _promote(x), tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    mean = values.sum(axes) / n
    variance = jnp.maximum(jnp.square(values).sum(axes) / n - jnp.square(mean), 0)
    r = lax.rsqrt(variance + epsilon)
    factor = scale * r
    normalized = values * _expand(factor, x) + _expand(bias - mean * factor, x)
    return Normalized(normalized.astype(x.dtype), mean, variance), (x, scale, mean, r)


def _backward(
    epsilon: float, saved: tuple[jax.Array, ...], grads: Normalized
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, r = saved
    values, grad = _promote(x), _promote(grads.values)
    axes, n = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    bias_gradient = grad.sum(axes)
    scale_gradient = r * (grad * (values - _expand(mean, x))).sum(axes)
    # The gradient of x as one weighted sum of its gradient, of x, and of a constant per channel: two arrays are read.
    slope = -scale * r * r * scale_gradient / n
    constant = -scale * r * bias_gradient / n - slope * mean
    gradient = grad * _expand(scale * r, x) + values * _expand(slope, x) + _expand(constant, x)
    return gradient.astype(x.dtype), scale_gradient.astype(scale.dtype), bias_gradient.astype(scale.dtype)


normalize_batch.defvjp(_forward, _backward)


@jax.custom_vjp
def relu6(x: jax.Array) -> jax.Array:
    """Computes min(max(x, 0), 6).

    The gradient is computed from the result, which the next convolution saves too. As in TensorFlow, it is 0 where x is
    0 or 6.
    """
    return jnp.clip(x, 0, 6)


def _forward_relu6(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu6(x)
    return y, y


def _backward_relu6(y: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    return (jnp.where((y > 0) & (y < 6), grad, 0),)


relu6.defvjp(_forward_relu6, _backward_relu6)


def _expand(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Returns a vector of one number per channel with as many axes as `x`."""
    return jnp.expand_dims(vector, range(x.ndim - 1))


def _promote(x: jax.Array) -> jax.Array:
    """Converts an array to at least float32, which sums over a batch need."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
