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

from mobilenet_jax.kernels.parts import divide_batch
from mobilenet_jax.kernels.platforms import choose_by_platform

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
            convolution; `"auto"` is `"shifted"` where the program is lowered for a CPU, else `"grouped"`. The results
            are equal up to float rounding.

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
    shifted, grouped = (
        functools.partial(form, stride=stride, padding=padding) for form in (_convolve_shifted, _convolve_grouped)
    )
    if method == "shifted":
        return shifted(x, kernel)
    if method == "grouped":
        return grouped(x, kernel)
    if method == "auto":
        return choose_by_platform(cpu=shifted, default=grouped)(x, kernel)
    raise ValueError(f"method is {method!r}: expected 'auto', 'shifted' or 'grouped'")


def _convolve_grouped(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[3],
    )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_shifted(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Computes y[n, h, w, c] = sum over i, j of xp[n, s h + i, s w + j, c] k[i, j, c], where xp is x with padding."""
    xp = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    out = _compute_output_size(xp.shape, stride)
    taps = (_slice_tap(xp, i, j, stride, out) * _get_weight(kernel, i, j) for i, j in _TAPS)
    return functools.reduce(jnp.add, taps)


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve_shifted(x, kernel, stride, padding), (x, kernel)


def _backward(
    stride: int, padding: Padding, saved: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    input_gradient = _compute_input_gradient(grad, kernel, stride, padding, x.shape)
    return input_gradient, _compute_kernel_gradient(x, grad, stride, padding)


_convolve_shifted.defvjp(_forward, _backward)


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
    """Computes dk[i, j, c] = sum over n, h, w of xp[n, s h + i, s w + j, c] grad[n, h, w, c], a few images per pass.

    Of several images, one pass takes at most half: XLA would unroll a single pass, and then compute `grad` again for
    each of the nine products. With several devices, each has a part of the batch, and there is one pass.
    """
    batch, *_, channels = x.shape
    limit = max(1, min(-(-batch // 2), _BYTES_PER_PASS // (x.nbytes // batch)))
    passes, images = divide_batch(batch, limit) if jax.device_count() == 1 else (1, batch)
    # Images of zeros add nothing to the sums.
    x, grad = (jnp.pad(a, ((0, passes * images - batch), (0, 0), (0, 0), (0, 0))) for a in (x, grad))
    out = grad.shape[1:3]
    ones = jnp.ones((1, images * out[0]), x.dtype)

    def add_images(k: int, total: jax.Array) -> jax.Array:
        part, grad_part = (lax.dynamic_slice_in_dim(a, k * images, images) for a in (x, grad))
        xp = jnp.pad(part, ((0, 0), *padding, (0, 0)))
        products = [(_slice_tap(xp, i, j, stride, out) * grad_part).reshape(ones.size, -1) for i, j in _TAPS]
        # A product with a row of ones sums over images and rows, at the speed of matrix products.
        sums = [jnp.matmul(ones, p, preferred_element_type=total.dtype) for p in products]
        return total + jnp.concatenate(sums)

    zeros = jnp.zeros((9, out[1] * channels), jnp.promote_types(x.dtype, jnp.float32))
    total = lax.fori_loop(0, passes, add_images, zeros)
    return total.reshape(9, out[1], channels).sum(1).reshape(3, 3, 1, channels).astype(x.dtype)


def _compute_output_size(padded: tuple[int, ...], stride: int) -> tuple[int, int]:
    return (padded[1] - 3) // stride + 1, (padded[2] - 3) // stride + 1


def _get_weight(kernel: jax.Array, i: int, j: int) -> jax.Array:
    """Returns the weights of tap (i, j) as `[1, 1, 1, channels]`."""
    return lax.slice(kernel, (i, j, 0, 0), (i + 1, j + 1, 1, kernel.shape[3]))


def _slice_tap(xp: jax.Array, i: int, j: int, stride: int, out: tuple[int, ...]) -> jax.Array:
    """Returns the inputs of tap (i, j) of the kernel at each of the `out` (rows, columns) output positions."""
    n, _, _, c = xp.shape
    stop = (n, i + stride * (out[0] - 1) + 1, j + stride * (out[1] - 1) + 1, c)
    return lax.slice(xp, (0, i, j, 0), stop, (1, stride, stride, 1))
