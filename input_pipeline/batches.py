"""Examples to batches of images.

A training batch is a pure function of (seed, step): the order of an epoch is a permutation drawn from (seed, epoch),
the changes of an example are drawn from (seed, epoch, example), and nothing is drawn where pixels are read. So a run
that starts at step s reads what a run that came to step s would have read, at once.

TensorFlow is needed where images are decoded or changed on the host. Batches of images that are decoded already
(`cache`), to be changed on the device or not at all, are taken from their array without it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np

from input_pipeline.augment import Augmentation, sample_affine, sample_color
from input_pipeline.cache import Cache
from input_pipeline.examples import Examples
from input_pipeline.image_ops import Scaling, change, scale

Batch = dict[str, np.ndarray]

_STREAM = 1  # keeps the draws of the order apart from those of the geometry
_VALIDATION = 1 << 32  # added to the epoch, so that validation draws nothing that training does


def epoch_order(labels: np.ndarray, seed: int, epoch: int, *, balanced: bool = False) -> np.ndarray:
    """The order in which an epoch goes through examples of these labels; balanced, what it draws from them instead.

    Balanced, as many are drawn as there are, each from a class drawn from those that occur, with the same chance for
    all classes: examples of rare classes come several times, some of common ones not at all.
    """
    rng = np.random.default_rng((seed, _STREAM, epoch))
    if not balanced:
        return rng.permutation(len(labels))
    counts = np.bincount(labels)
    return rng.choice(len(labels), len(labels), p=1 / ((counts > 0).sum() * counts[labels]))


def make_train_batches(
    examples: Examples,
    augmentation: Augmentation,
    *,
    image_size: int,
    scaling: Scaling,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    where: Literal["host", "device"] = "host",
    balanced: bool = False,
    cache: Cache | None = None,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Augmented batches of steps `first_step` up to, not including, `last_step`.

    An epoch has `len(examples) // batch_size` steps. The examples left over differ from epoch to epoch.

    Where the images are to be changed on the device, they come as they are, uint8, with what was drawn for them:
    `affine` float32 `[batch, 3, 3]` and `color` float32 `[batch, 4, 3]`, for `mobilenet_jax.training.device_augment`.

    Args:
        examples: of training.
        augmentation: how they are changed.
        image_size: height and width in pixels.
        scaling: what pixel values 0 and 255 are mapped to.
        batch_size: of all processes together.
        seed: of the order and the changes.
        first_step: counted from 0 over all epochs.
        last_step: the one after the last.
        where: the images are changed.
        balanced: whether classes come equally often, see `epoch_order`. Changes are then drawn from (seed, epoch,
            position in the epoch), for an example that comes twice to look different.
        cache: holds the examples' images decoded; None reads the files.
        process: this process's number and how many there are; each gets its share of every batch, in turn.

    Returns:
        An iterator of `image` float32 `[batch, size, size, 3]`, `label` int32 `[batch]` and `index` int64 `[batch]`,
        the example's position in `examples`.
    """
    steps_per_epoch = len(examples) // batch_size
    source = cache.rows(examples.paths) if cache else examples.paths
    number, processes = process

    def plan() -> Iterator[Batch]:
        drawn_epoch = -1
        for step in range(first_step, last_step):
            epoch, position = divmod(step, steps_per_epoch)
            if epoch != drawn_epoch:
                order, drawn_epoch = epoch_order(examples.labels, seed, epoch, balanced=balanced), epoch
                drawn = _draw(augmentation, seed, epoch, len(examples), image_size)
            positions = np.split(np.arange(position * batch_size, (position + 1) * batch_size), processes)[number]
            index = order[positions]
            yield {
                "source": source[index],
                "label": examples.labels[index],
                "index": index,
                **{name: column[positions if balanced else index] for name, column in drawn.items()},
            }

    changed = None if where == "device" else partial(change, augmentation=augmentation, scaling=scaling)
    return _with_pixels(plan, image_size, batch_size // processes, changed, cache)


def make_eval_batches(
    examples: Examples,
    *,
    image_size: int,
    scaling: Scaling,
    batch_size: int,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    epoch: int = 0,
    cache: Cache | None = None,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Every example once, in order; the last batch is filled up with zeros.

    Args:
        examples: of validation.
        image_size: height and width in pixels.
        scaling: what pixel values 0 and 255 are mapped to.
        batch_size: of every batch, the last included.
        augmentation: None leaves the images as they are. The article augmented them too, as its generator did.
        seed: of the augmentation.
        epoch: counted from 0; each draws anew.
        cache: as above.
        process: as above.

    Returns:
        An iterator of `image` and `label` as above and `mask` bool `[batch]`, False for what fills up.
    """
    source = cache.rows(examples.paths) if cache else examples.paths
    number, processes = process
    share = batch_size // processes
    drawn = _draw(augmentation, seed, epoch + _VALIDATION, len(examples), image_size) if augmentation else {}
    starts = range(0, len(examples), batch_size)

    def plan() -> Iterator[Batch]:
        for start in starts:
            part = slice(start + number * share, start + (number + 1) * share)
            columns = {"source": source, "label": examples.labels, **drawn}
            yield {name: column[part] for name, column in columns.items()}

    changed = partial(change, augmentation=augmentation, scaling=scaling) if augmentation else None
    found = _with_pixels(plan, image_size, share, changed, cache)
    nothing: Batch = {
        "image": np.zeros((0, image_size, image_size, 3), np.float32 if augmentation else np.uint8),
        "label": np.zeros(0, np.int32),
    }
    for _ in starts:
        batch = next(found, nothing)  # a process may have no share of the last batch
        n = len(batch["label"])
        image = batch["image"] if augmentation else scale(batch["image"], scaling)
        whole: Batch = {"image": image, "label": batch["label"], "mask": np.ones(n, bool)}
        missing = share - n
        yield {k: np.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)) if missing else v for k, v in whole.items()}


def _draw(augmentation: Augmentation, seed: int, epoch: int, n: int, image_size: int) -> Batch:
    """The geometry and the colors of all examples in an epoch."""
    return {
        "affine": sample_affine(augmentation, seed, epoch, n, image_size),
        "color": sample_color(augmentation, seed, epoch, n),
    }


def _with_pixels(
    plan: Callable[[], Iterator[Batch]],
    image_size: int,
    batch_size: int,
    changed: Callable[..., np.ndarray] | None,
    cache: Cache | None,
) -> Iterator[Batch]:
    """The batches of a plan, with `image` in the place of `source`."""
    if cache and not changed:
        for batch in plan():
            yield {"image": cache.images[batch.pop("source")], **batch}
    else:
        from input_pipeline import tf_graph  # TensorFlow, which is not needed above

        yield from tf_graph.batches(plan, image_size, batch_size, changed, cache.images if cache else None)
