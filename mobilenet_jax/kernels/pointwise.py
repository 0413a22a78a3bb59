"""The 1x1 convolution: one matrix product over the channels, with gradients that are two more."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def pointwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes y[n, h, w, f] = sum over c of x[n, h, w, c] k[c, f].

    With the positions of all images as the rows of X and Y, it is Y = X K. The gradients are dX = dY K^T and
    dK = X^T dY. JAX's own gradient computes dK^T = dY^T X instead, for which XLA writes dY transposed first on a CPU:
    without that copy, the step is faster (`docs/performance.md`).

    Args:
        x: `[batch, height, width, channels]`.
        kernel: `[channels, features]`.

    Returns:
        `[batch, height, width, features]`.
    """
    return (_flatten(x) @ kernel).reshape(*x.shape[:-1], kernel.shape[1])


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return pointwise_conv(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    input_gradient = (_flatten(grad) @ kernel.T).reshape(x.shape)
    kernel_gradient = jax.lax.dot_general(_flatten(x), _flatten(grad), (((0,), (0,)), ((), ())))
    return input_gradient, kernel_gradient


pointwise_conv.defvjp(_forward, _backward)


def _flatten(x: jax.Array) -> jax.Array:
    """Returns `[positions, channels]`."""
    return jnp.reshape(x, (-1, x.shape[-1]))
