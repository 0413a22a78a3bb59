"""The first convolution of the network: 3x3, stride 2, from images of few channels."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from mobilenet_jax.kernels.platforms import choose_by_platform
from mobilenet_jax.kernels.pointwise import pointwise_conv

Method = Literal["auto", "patches", "convolution"]


def stem_conv(x: jax.Array, kernel: jax.Array, method: Method = "auto") -> jax.Array:
    """Computes y[n, h, w, f] = sum over i, j, c of x[n, 2h + i, 2w + j, c] k[i, j, c, f], without padding.

    In programs for a CPU, it is one matrix product of the 3x3 patches of the images with the kernel. It is
    faster there than XLA's convolution, and so is the gradient of the kernel.

    Args:
        x: `[batch, height, width, channels]`, at least 3 pixels high and wide.
        kernel: `[3, 3, channels, features]`.
        method: `"patches"` is the matrix product, `"convolution"` is XLA's convolution, which converters for phones
            recognize, and `"auto"` is `"patches"` where the program is lowered for a CPU, else `"convolution"`.

    Returns:
        `[batch, (height - 1) // 2, (width - 1) // 2, features]`.

    Raises:
        ValueError: the method is not one of those above.
    """
    if method == "patches":
        return _multiply_patches(x, kernel)
    if method == "convolution":
        return _convolve(x, kernel)
    if method == "auto":
        return choose_by_platform(cpu=_multiply_patches, default=_convolve)(x, kernel)
    raise ValueError(f"method is {method!r}: expected 'auto', 'patches' or 'convolution'")


def _multiply_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return pointwise_conv(_extract_patches(x), kernel.reshape(-1, kernel.shape[3]))


def _extract_patches(x: jax.Array) -> jax.Array:
    """Returns `[batch, rows, columns, 9 channels]`: the patches in the order of the kernel's axes."""
    batch, height, width, channels = x.shape
    rows, columns = (height - 1) // 2, (width - 1) // 2
    pads = ((0, 0, 0), (0, 2 * (rows + 1) - height, 0), (0, 2 * (columns + 1) - width, 0), (0, 0, 0))
    pairs = lax.pad(x, jnp.zeros((), x.dtype), pads).reshape(batch, rows + 1, 2, columns + 1, 2 * channels)
    parts = []
    for i in range(3):
        row = pairs[:, i // 2 : i // 2 + rows, i % 2]  # row 2h + i of the images, as pairs of pixels
        parts += [row[:, :, :-1], row[:, :, 1:, :channels]]  # pixels 2w and 2w + 1, then pixel 2w + 2
    return jnp.concatenate(parts, -1)


_convolve = functools.partial(
    lax.conv_general_dilated,
    window_strides=(2, 2),
    padding="VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
)
