"""The input of the network, computed on the device from pixels."""

import jax
import jax.numpy as jnp


def scale_pixels(pixels: jax.Array, input_scaling: tuple[float, float]) -> jax.Array:
    """Maps pixel values from 0 to 255 to the input range of the network.

    Args:
        pixels: any shape and type.
        input_scaling: the `(low, high)` range that 0 and 255 are mapped to.

    Returns:
        float32, the same shape.
    """
    low, high = input_scaling
    return low + (high - low) / 255 * pixels.astype(jnp.float32)
