"""Applies the geometry and color that `input_pipeline` sampled to a batch on the accelerator instead of the host."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from input_pipeline.augment import Augmentation
from input_pipeline.preprocessing import InputScaling
from mobilenet_jax.kernels.warp import warp_image
from mobilenet_jax.model.preprocessing import scale_pixels
from mobilenet_jax.training.step import DeviceBatch


def make_device_augment(
    augmentation: Augmentation, input_scaling: InputScaling
) -> Callable[[DeviceBatch], dict[str, jax.Array]]:
    """Builds the jitted augmentation of the batches of `make_train_batches(..., augment_on="device")`.

    Args:
        augmentation: the fill mode, and whether colors change at all.
        input_scaling: the `(low, high)` range that pixel values 0 and 255 are mapped to.

    Returns:
        A function that maps a batch (`image` uint8 `[batch, height, width, 3]`, `affine` `[batch, 3, 3]`, `color`
        `[batch, 4, 3]` and other columns) to the same batch with augmented and scaled float32 images, without
        `affine` and `color`.
    """
    fill_mode, fill_value = augmentation.fill_mode, augmentation.fill_value

    def warp(image: jax.Array, affine: jax.Array) -> jax.Array:
        return warp_image(image, affine, fill_mode, fill_value)

    def recolor(image: jax.Array, color: jax.Array) -> jax.Array:
        image = jnp.einsum("hwc,dc->hwd", image, color[:3], precision="highest")
        mean = image.mean((0, 1), keepdims=True)
        return jnp.clip(mean + color[None, 3:] * (image - mean), 0, 255)

    @jax.jit
    def augment(batch: DeviceBatch) -> dict[str, jax.Array]:
        image = jax.vmap(warp)(batch["image"].astype(jnp.float32), batch["affine"])
        if augmentation.changes_color:
            image = jax.vmap(recolor)(image, batch["color"])
        rest = {name: value for name, value in batch.items() if name not in ("affine", "color")}
        return {**rest, "image": scale_pixels(image, input_scaling)}

    return augment
