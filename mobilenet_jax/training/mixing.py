"""Mixes pairs of images and their labels on the device: mixup and CutMix.

Each image of a batch is mixed with the one at the mirrored position: the first with the last, and so on. The order of
the images is random, so the pairs are too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mixing(NamedTuple):
    """The mixing of pairs of images. If both factors are positive, each step uses one of the two at random.

    Attributes:
        mixup: alpha of mixup; 0 disables it. The share of the first image is sampled from Beta(alpha, alpha), once per
            step (Zhang et al. 2018, arXiv:1710.09412).
        cutmix: alpha of CutMix; 0 disables it. A rectangle of the first image is replaced by that of the second; the
            share of the rest is sampled in the same way (Yun et al. 2019, arXiv:1905.04899).
    """

    mixup: float = 0.0
    cutmix: float = 0.0


def mix_examples(
    mixing: Mixing, key: jax.Array, images: jax.Array, targets: jax.Array, num_classes: int
) -> tuple[jax.Array, jax.Array]:
    """Mixes each image of a batch with another one.

    Args:
        mixing: without factors, images and targets are returned as they are.
        key: the random key of the step.
        images: `[batch, height, width, 3]`.
        targets: int32 `[batch]`, the labels; or float32 `[batch, classes]`, the probabilities of the classes.
        num_classes: the number of classes.

    Returns:
        The images; and the targets, float32 `[batch, classes]`, in which both labels have the share of their image.
    """
    if not mixing.mixup and not mixing.cutmix:
        return images, targets
    share_key, box_key, choice_key = jax.random.split(jax.random.fold_in(key, 1), 3)
    is_random = mixing.mixup > 0 and mixing.cutmix > 0
    uses_cutmix = jax.random.bernoulli(choice_key) if is_random else jnp.asarray(mixing.cutmix > 0)
    alpha = jnp.where(uses_cutmix, mixing.cutmix, mixing.mixup)
    share = jax.random.beta(share_key, alpha, alpha)
    others = images[::-1]
    if mixing.cutmix:
        box = make_box(box_key, share, (images.shape[1], images.shape[2]))
        share = jnp.where(uses_cutmix, 1 - box.mean(), share)
        kept = jnp.where(uses_cutmix, 1 - box, share)[None, :, :, None]
    else:
        kept = share
    probabilities = jax.nn.one_hot(targets, num_classes) if targets.ndim == 1 else targets
    mixed = share * probabilities + (1 - share) * probabilities[::-1]
    return (kept * images + (1 - kept) * others).astype(images.dtype), mixed


def make_box(key: jax.Array, share: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Samples the rectangle of CutMix, which covers `1 - share` of the area if it lies within the image.

    Its sides are those of the image times `sqrt(1 - share)`; its center is uniform in the image.

    Args:
        key: the random key.
        share: the share of the area outside.
        size: height and width in pixels.

    Returns:
        float32 `[height, width]`: 1 inside, 0 outside.
    """
    half = jnp.sqrt(1 - share) / 2

    def cover(center: jax.Array, length: int) -> jax.Array:
        positions = (jnp.arange(length) + 0.5) / length
        return jnp.abs(positions - center) < half

    y, x = jax.random.uniform(key, (2,))
    return (cover(y, size[0])[:, None] & cover(x, size[1])[None]).astype(jnp.float32)
