"""The input of the network, computed on the device from pixels."""

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.preprocessing import MINKOWSKI_NORM, InputScaling


def scale_pixels(pixels: jax.Array, input_scaling: InputScaling) -> jax.Array:
    """Maps pixel values from 0 to 255 to the input range of the network.

    Args:
        pixels: `[..., 3]`, of any type.
        input_scaling: the `(low, high)` range that 0 and 255 are mapped to, of all channels or of each.

    Returns:
        float32, the same shape.
    """
    low, high = map(np.asarray, input_scaling)
    if low.ndim:  # one value per channel
        low, high = (value.reshape((1,) * (pixels.ndim - 1) + (3,)) for value in (low, high))
    return np.float32(low) + np.float32((high - low) / 255) * pixels.astype(jnp.float32)


def remove_color_cast(pixels: jax.Array) -> jax.Array:
    """Removes the color cast of the light as `image_ops.remove_color_cast` does; values differ by at most one level.

    Args:
        pixels: `[n, height, width, 3]`, of any type.

    Returns:
        float32, the same shape: whole numbers from 0 to 255.
    """
    pixels = pixels.astype(jnp.float32)
    powers = (pixels / 255) ** MINKOWSKI_NORM
    # Some runtimes of exported networks add in one sequence: over rows, then columns, the error is a hundredth.
    means = powers.mean(1, keepdims=True).mean(2, keepdims=True) ** (1 / MINKOWSKI_NORM)
    gains = means.mean(3, keepdims=True) / jnp.maximum(means, 1 / 255)
    return jnp.minimum(jnp.round(pixels * gains), 255)
