"""The input of the network, computed on the device from pixels."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from input_pipeline.image_ops import InputScaling


def scale_pixels(pixels: jax.Array, input_scaling: "InputScaling") -> jax.Array:
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
