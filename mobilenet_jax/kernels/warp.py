"""The affine warp of an image."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


def warp_image(image: jax.Array, affine: jax.Array, fill_mode: str, fill_value: float) -> jax.Array:
    """Samples an image bilinearly at the positions that a matrix gives.

    Args:
        image: float32 `[height, width, channels]`.
        affine: `[3, 3]`, maps the homogeneous coordinates (x, y, 1) of an output pixel to those in the image.
        fill_mode: the values outside of the image: `"nearest"`, `"reflect"`, `"wrap"` or `"constant"`.
        fill_value: the value for `"constant"`.

    Returns:
        float32 `[height, width, channels]`.
    """
    height, width, _ = image.shape
    y, x = jnp.mgrid[:height, :width].astype(jnp.float32)
    source_x, source_y, _ = jnp.tensordot(affine, jnp.stack([x, y, jnp.ones_like(x)]), 1, precision="highest")

    def warp_channel(values: jax.Array) -> jax.Array:
        return map_coordinates(values, [source_y, source_x], order=1, mode=fill_mode, cval=fill_value)

    return jax.vmap(warp_channel, in_axes=2, out_axes=2)(image)
