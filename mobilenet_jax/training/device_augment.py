"""The geometry and colors that `input_pipeline` drew, applied to a batch on the accelerator instead of the host."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

Arrays = Mapping[str, jax.Array]


def make_device_augment(augmentation: Any, scaling: tuple[float, float]) -> Callable[[Arrays], dict[str, jax.Array]]:
    """Builds the jitted change of a batch that `make_train_batches(..., where="device")` gives.

    Args:
        augmentation: an `input_pipeline.Augmentation`; its module is not imported here, it would import TensorFlow.
        scaling: what pixel values 0 and 255 are mapped to.

    Returns:
        A function of a batch (`image` uint8 `[batch, height, width, 3]`, `affine` `[batch, 3, 3]`, `color`
        `[batch, 4, 3]`, and others) to the same with `image` changed and scaled, and without those two.
    """
    low, high = scaling
    fill_mode, fill_value = augmentation.fill_mode, augmentation.fill_value

    def warp(image: jax.Array, affine: jax.Array) -> jax.Array:
        height, width, _ = image.shape
        y, x = jnp.mgrid[:height, :width].astype(jnp.float32)
        source_x, source_y, _ = jnp.tensordot(affine, jnp.stack([x, y, jnp.ones_like(x)]), 1, precision="highest")

        def channel(values: jax.Array) -> jax.Array:
            return map_coordinates(values, [source_y, source_x], order=1, mode=fill_mode, cval=fill_value)

        return jax.vmap(channel, in_axes=2, out_axes=2)(image)

    def recolor(image: jax.Array, color: jax.Array) -> jax.Array:
        image = jnp.einsum("hwc,dc->hwd", image, color[:3], precision="highest")
        mean = image.mean((0, 1), keepdims=True)
        return jnp.clip(mean + color[None, 3:] * (image - mean), 0, 255)

    @jax.jit
    def augment(batch: Arrays) -> dict[str, jax.Array]:
        image = jax.vmap(warp)(batch["image"].astype(jnp.float32), batch["affine"])
        if augmentation.changes_color:
            image = jax.vmap(recolor)(image, batch["color"])
        rest = {name: value for name, value in batch.items() if name not in ("affine", "color")}
        return {**rest, "image": low + (high - low) * (image / 255)}

    return augment
