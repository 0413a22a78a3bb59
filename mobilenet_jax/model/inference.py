"""Applies a model to large batches on a CPU, one part at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from mobilenet_jax.kernels.parts import divide_batch
from mobilenet_jax.model.mobilenet import BLOCKS, MobileNet

# The number of images per part is the largest for which every activation stays below this size: then memory is neither
# requested from the kernel for each batch, nor read from outside of the caches. The patches of the stem may be larger.
_BYTES_PER_PART = 1 << 23


def apply_in_parts(function: Callable[[jax.Array], jax.Array], images: jax.Array, model: MobileNet) -> jax.Array:
    """Applies a function to a batch; on a CPU with a single device, to one part of the batch after another.

    Args:
        function: maps `[n, height, width, 3]` to `[n, ...]`, each image by itself, with `model` in inference mode.
        images: `[batch, height, width, 3]`.
        model: determines the size of the parts.

    Returns:
        The outputs of the function for the whole batch.
    """
    batch, height, width, _ = images.shape
    item_bytes = jnp.dtype(model.dtype).itemsize
    # The largest activation is the output of the first block.
    image_bytes = item_bytes * int(BLOCKS[0][0] * model.alpha) * (height // 2) * (width // 2)
    parts, size = divide_batch(batch, max(1, _BYTES_PER_PART // image_bytes))

    def apply_to_parts(images: jax.Array) -> jax.Array:
        padded = jnp.pad(images, ((0, parts * size - batch), (0, 0), (0, 0), (0, 0)))
        outputs = lax.map(function, padded.reshape(parts, size, *images.shape[1:]))
        return outputs.reshape(parts * size, *outputs.shape[2:])[:batch]

    if parts == 1 or jax.device_count() > 1:  # each of several devices has a part of the batch
        return function(images)
    return lax.platform_dependent(images, cpu=apply_to_parts, default=function)
