"""Turns examples into batches of images.

A training batch is a pure function of (seed, step). The order of an epoch is a permutation keyed by (seed, epoch), the
augmentation of an example is keyed by (seed, epoch, example), and no random numbers are used where pixels are read. A
run that starts at step s therefore reads the batches of a run that arrived at step s: no replay is needed on resume.

TensorFlow is required where images are decoded or augmented on the host. Batches of images that are already decoded
(see `cache`) and are augmented on the device or not at all are gathered from the cache's array without it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from input_pipeline.augment import Augmentation, sample_affine, sample_color
from input_pipeline.cache import Cache
from input_pipeline.examples import Batch, Examples
from input_pipeline.image_ops import augment_images, scale_pixels
from input_pipeline.preprocessing import STRETCH, InputScaling, Preprocessing

AugmentOn = Literal["host", "device"]
Sampling = Literal["uniform", "balanced"]

_ORDER_STREAM = 1  # keeps the random stream of the order apart from those of the augmentation
_VALIDATION_EPOCHS = 1 << 32  # added to the epoch, so that validation never shares a random stream with training


@dataclass(frozen=True)
class ShardOptions:
    """This process's share of every batch.

    Attributes:
        index: the number of this process, from 0.
        count: the number of processes.
    """

    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class BatchOptions:
    """Options that training and evaluation batches have in common.

    Attributes:
        image_size: height and width in pixels.
        input_scaling: the `(low, high)` range that pixel values 0 and 255 are mapped to.
        batch_size: images per batch, over all processes.
        seed: seed of the order and of the augmentation.
        cache: the decoded images; None reads the image files.
        preprocessing: of the image files; images in the cache are preprocessed already.
        shard: this process's share of every batch.
    """

    image_size: int
    input_scaling: InputScaling
    batch_size: int
    seed: int
    cache: Cache | None = None
    preprocessing: Preprocessing = STRETCH
    shard: ShardOptions = field(default_factory=ShardOptions)

    def __post_init__(self) -> None:
        if self.batch_size % self.shard.count:
            raise ValueError(f"batch_size {self.batch_size} is not divisible by {self.shard.count} processes")

    @property
    def local_batch_size(self) -> int:
        """Images per batch in this process."""
        return self.batch_size // self.shard.count


def sample_indices(labels: np.ndarray, seed: int, epoch: int, sampling: Sampling = "uniform") -> np.ndarray:
    """Returns the indices of examples in the order in which an epoch visits them.

    Args:
        labels: int32 `[n]`, the labels of all examples.
        seed: seed of the run.
        epoch: counted from 0.
        sampling: `"uniform"` visits every example once. `"balanced"` samples n examples with replacement, each from a
            class chosen uniformly among those that occur: examples of rare classes are repeated, some of common
            classes are left out.

    Returns:
        int64 `[n]`.
    """
    rng = np.random.default_rng((seed, _ORDER_STREAM, epoch))
    if sampling == "uniform":
        return rng.permutation(len(labels))
    counts = np.bincount(labels)
    return rng.choice(len(labels), len(labels), p=1 / ((counts > 0).sum() * counts[labels]))


def make_train_batches(
    examples: Examples,
    augmentation: Augmentation,
    options: BatchOptions,
    *,
    first_step: int,
    last_step: int,
    augment_on: AugmentOn = "host",
    sampling: Sampling = "uniform",
) -> Iterator[Batch]:
    """Yields the augmented batches from `first_step` up to, but not including, `last_step`.

    An epoch has `len(examples) // batch_size` steps. The examples left over differ from epoch to epoch.

    Args:
        examples: the training examples.
        augmentation: the ranges of the random augmentation.
        options: image size, input range, batch size, seed, cache and shard.
        first_step: counted from 0 over all epochs.
        last_step: the step after the last one.
        augment_on: `"device"` leaves the images as they are, uint8, and adds the sampled parameters `affine`, float32
            `[batch, 3, 3]`, and `color`, float32 `[batch, 4, 3]`, for `mobilenet_jax.training.device_augment`.
        sampling: see `sample_indices`. With `"balanced"`, the augmentation is keyed by (seed, epoch, position in the
            epoch), so that an example that is repeated looks different each time.

    Returns:
        An iterator of `image` float32 `[batch, size, size, 3]`, `label` int32 `[batch]` and `index` int64 `[batch]`,
        the index of the example in `examples`; and of `soft_label` float32 `[batch, classes]`, if the examples have
        soft labels. `batch` is this process's share.

    Raises:
        DataError: an image cannot be read.
    """
    source = _list_sources(examples, options.cache)

    def plan() -> Iterator[Batch]:
        for step in range(first_step, last_step):
            epoch, position = divmod(step, len(examples) // options.batch_size)
            if step == first_step or position == 0:
                order = sample_indices(examples.labels, options.seed, epoch, sampling)
                parameters = _sample_parameters(augmentation, epoch, len(examples), options)
            share = _slice_share(position * options.batch_size, options)
            index = order[share]
            rows = share if sampling == "balanced" else index
            soft = {} if examples.soft_labels is None else {"soft_label": examples.soft_labels[index]}
            yield {
                "source": source[index],
                "label": examples.labels[index],
                "index": index,
                **soft,
                **{name: column[rows] for name, column in parameters.items()},
            }

    return _add_pixels(plan, options, augmentation if augment_on == "host" else None)


def make_eval_batches(
    examples: Examples, options: BatchOptions, *, augmentation: Augmentation | None = None, epoch: int = 0
) -> Iterator[Batch]:
    """Yields batches of every example once, in order; the last batch is padded with zeros.

    Args:
        examples: the examples to evaluate on.
        options: image size, input range, batch size, seed, cache and shard.
        augmentation: None leaves the images as they are. The article augmented its validation images as well, because
            its generator did.
        epoch: counted from 0; the augmentation differs from epoch to epoch.

    Returns:
        An iterator of `image` and `label` as for training, and `mask` bool `[batch]`, False for padding.

    Raises:
        DataError: an image cannot be read.
    """
    columns: Batch = {"source": _list_sources(examples, options.cache), "label": examples.labels}
    if augmentation:
        columns |= _sample_parameters(augmentation, epoch + _VALIDATION_EPOCHS, len(examples), options)
    starts = range(0, len(examples), options.batch_size)

    def plan() -> Iterator[Batch]:
        for start in starts:
            share = _slice_share(start, options)
            yield {name: column[share] for name, column in columns.items()}

    batches = _add_pixels(plan, options, augmentation)
    shape = (0, options.image_size, options.image_size, 3)
    empty: Batch = {
        "image": np.zeros(shape, np.float32 if augmentation else np.uint8),
        "label": np.zeros(0, np.int32),
    }
    for _ in starts:
        batch = next(batches, empty)  # a process may have no share of the last batch
        image, label = batch["image"], batch["label"]
        if not augmentation:
            image = scale_pixels(image, options.input_scaling)
        yield _pad({"image": image, "label": label, "mask": np.ones(len(label), bool)}, options.local_batch_size)


def _list_sources(examples: Examples, cache: Cache | None) -> np.ndarray:
    """Returns the source of each image: its row in the cache, or its path without one."""
    return cache.get_rows(examples.paths) if cache else examples.paths


def _sample_parameters(augmentation: Augmentation, epoch: int, n: int, options: BatchOptions) -> Batch:
    """Samples the geometry and the color of all examples in an epoch."""
    return {
        "affine": sample_affine(augmentation, options.seed, epoch, n, options.image_size),
        "color": sample_color(augmentation, options.seed, epoch, n),
    }


def _slice_share(start: int, options: BatchOptions) -> slice:
    """Returns this process's share of the batch that begins at `start`."""
    first = start + options.shard.index * options.local_batch_size
    return slice(first, first + options.local_batch_size)


def _add_pixels(
    plan: Callable[[], Iterator[Batch]], options: BatchOptions, augmentation: Augmentation | None
) -> Iterator[Batch]:
    """Yields the batches of a plan with `image` instead of `source`, augmented if `augmentation` is given."""
    cache = options.cache
    if cache and not augmentation:
        for batch in plan():
            yield {"image": cache.images[batch.pop("source")], **batch}
        return
    from input_pipeline.tf_graph import run_plan  # imports TensorFlow, which the lines above do without

    augment = None
    if augmentation:
        augment = partial(augment_images, augmentation=augmentation, input_scaling=options.input_scaling)
    images = cache.images if cache else None
    yield from run_plan(plan, options.image_size, options.local_batch_size, augment, images, options.preprocessing)


def _pad(batch: Batch, size: int) -> Batch:
    """Pads all columns with zeros to `size` rows."""
    missing = size - len(batch["mask"])
    if not missing:
        return batch
    return {name: np.pad(column, [(0, missing)] + [(0, 0)] * (column.ndim - 1)) for name, column in batch.items()}
