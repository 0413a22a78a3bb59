"""The depthwise 3x3 convolution, in the form that is fastest on each backend.

A depthwise convolution filters each channel separately. To XLA it is a grouped convolution with as many groups as
channels. On a CPU that form is 4 to 30 times slower than nine shifted multiply-adds, and its gradients are 7 to 19
times slower (`benchmarks/results/depthwise.md`). Converters for phones, however, recognize only the grouped form. This
module owns the choice.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

Method = Literal["auto", "shifted", "grouped"]
Padding = tuple[tuple[int, int], tuple[int, int]]

_TAPS = [(i, j) for i in range(3) for j in range(3)]

# The gradient of the kernel reduces nine products as large as the input. Computed for about this many bytes of input at
# a time, the products stay in the second-level cache of the processor.
_BYTES_PER_PASS = 1 << 20


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, method: Method = "auto"
) -> jax.Array:
    """Convolves each channel with its own 3x3 filter.

    Args:
        x: `[batch, height, width, channels]`.
        kernel: `[3, 3, 1, channels]`, the HWIO layout of a convolution with `channels` groups.
        stride: 1 or 2, for both axes.
        padding: the number of zeros to add, `((top, bottom), (left, right))`, each from 0 to 2.
        method: `"shifted"` sums nine shifted products and has its own gradient; `"grouped"` is XLA's grouped
            convolution; `"auto"` is `"shifted"` if JAX's default backend is a CPU when the function is traced, else
            `"grouped"`. The results are equal up to float rounding.

    Returns:
        `[batch, (height + top + bottom - 3) // stride + 1, (width + left + right - 3) // stride + 1, channels]`.

    Raises:
        ValueError: the shape of the kernel is not `[3, 3, 1, channels]`, or the stride or the method is not one of
            those above.
    """
    if kernel.shape != (3, 3, 1, x.shape[3]):
        raise ValueError(f"the kernel is {kernel.shape}: expected (3, 3, 1, {x.shape[3]}) for {x.shape[3]} channels")
    if stride not in (1, 2):
        raise ValueError(f"stride is {stride}: expected 1 or 2")
    if method == "auto":
        method = "shifted" if jax.default_backend() == "cpu" else "grouped"
    if method == "shifted":
        return _shifted(x, kernel, stride, padding)
    if method == "grouped":
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[3],
        )  # fmt: skip
    raise ValueError(f"method is {method!r}: expected 'auto', 'shifted' or 'grouped'")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Computes y[n, h, w, c] = sum over i, j of xp[n, s h + i, s w + j, c] k[i, j, c], where xp is x with padding."""
    xp = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    out = _compute_output_size(xp.shape, stride)
    taps = (_slice_tap(xp, i, j, stride, out) * _get_weight(kernel, i, j) for i, j in _TAPS)
    return functools.reduce(jnp.add, taps)


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _shifted(x, kernel, stride, padding), (x, kernel)


def _backward(
    stride: int, padding: Padding, saved: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    input_gradient = _compute_input_gradient(grad, kernel, stride, padding, x.shape)
    return input_gradient, _compute_kernel_gradient(x, grad, stride, padding)


_shifted.defvjp(_forward, _backward)


def _compute_input_gradient(
    grad: jax.Array, kernel: jax.Array, stride: int, padding: Padding, shape: tuple[int, ...]
) -> jax.Array:
    """Computes the transposed convolution: `grad` is dilated by the stride, then convolved with the flipped kernel."""
    pads = []
    for size, out, (before, _) in zip(shape[1:3], grad.shape[1:3], padding, strict=True):
        low = 2 - before
        pads.append((low, size + 2 - low - (stride * (out - 1) + 1), stride - 1))
    dilated = lax.pad(grad, jnp.zeros((), grad.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    taps = (_slice_tap(dilated, 2 - i, 2 - j, 1, shape[1:3]) * _get_weight(kernel, i, j) for i, j in _TAPS)
    return functools.reduce(jnp.add, taps)


def _compute_kernel_gradient(x: jax.Array, grad: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Computes dk[i, j, c] = sum over n, h, w of xp[n, s h + i, s w + j, c] grad[n, h, w, c], a few images per pass."""
    batch, *_, channels = x.shape
    images = max(1, min(batch, _BYTES_PER_PASS // (x.nbytes // batch)))
    while batch % images:  # each pass takes the same number of images
        images -= 1
    out = grad.shape[1:3]

    def add_images(total: jax.Array, part: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        x, grad = part
        xp = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        products = [_slice_tap(xp, i, j, stride, out) * grad for i, j in _TAPS]
        return total + jnp.stack([p.sum((0, 1), dtype=total.dtype) for p in products]), None

    parts = tuple(a.reshape(batch // images, images, *a.shape[1:]) for a in (x, grad))
    zeros = jnp.zeros((9, out[1], channels), jnp.promote_types(x.dtype, jnp.float32))
    total, _ = lax.scan(add_images, zeros, parts)
    return total.sum(1).reshape(3, 3, 1, channels).astype(x.dtype)


def _compute_output_size(padded: tuple[int, ...], stride: int) -> tuple[int, int]:
    return (padded[1] - 3) // stride + 1, (padded[2] - 3) // stride + 1


def _get_weight(kernel: jax.Array, i: int, j: int) -> jax.Array:
    """Returns the weights of tap (i, j) as `[1, 1, 1, channels]`."""
    return kernel[i, j, 0][None, None, None]


def _slice_tap(xp: jax.Array, i: int, j: int, stride: int, out: tuple[int, ...]) -> jax.Array:
    """Returns the inputs of tap (i, j) of the kernel at each of the `out` (rows, columns) output positions."""
    n, _, _, c = xp.shape
    stop = (n, i + stride * (out[0] - 1) + 1, j + stride * (out[1] - 1) + 1, c)
    return lax.slice(xp, (0, i, j, 0), stop, (1, stride, stride, 1))
