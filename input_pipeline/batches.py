"""Examples to batches of images with tf.data.

A training batch is a pure function of (seed, step): the order of an epoch is a permutation drawn from (seed, epoch),
the geometry of an example is one matrix drawn from (seed, epoch, example), and the tf.data graph draws nothing. So a
run that starts at step s reads what a run that came to step s would have read, at once.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from input_pipeline.augment import Augmentation, draw_affine, draw_colour
from input_pipeline.examples import DataError, Examples

Batch = dict[str, np.ndarray]
Scaling = tuple[float, float]

_STREAM = 1  # keeps the draws of the order apart from those of the geometry
_PARALLEL = os.cpu_count() or 1
_VALIDATION = 1 << 32  # added to an example's index, so that validation draws nothing that training does
_PREFETCH = 2  # batches; a fixed number, so that memory does not depend on what tf.data finds worth buffering


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch goes through `n` examples."""
    return np.random.default_rng((seed, _STREAM, epoch)).permutation(n)


def train_batches(
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
) -> Iterator[Batch]:
    """Augmented batches of steps `first_step` up to, not including, `last_step`.

    An epoch has `len(examples) // batch_size` steps. The examples left over differ from epoch to epoch.

    Where the images are to be changed on the device, they come as they are, from 0 to 255, with what was drawn for
    them: `affine` float32 `[batch, 8]` and `colour` float32 `[batch, 4, 3]`, for `mobilenet_jax.device_augment`.

    Returns:
        An iterator of `image` float32 `[batch, size, size, 3]` in the range `scaling` maps pixel values 0 and 255 to,
        `label` int32 `[batch]` and `index` int64 `[batch]`, the example's position in `examples`.
    """
    steps_per_epoch = len(examples) // batch_size

    def plan() -> Iterator[_Planned]:
        order, order_epoch = np.empty(0), -1
        for step in range(first_step, last_step):
            epoch, position = divmod(step, steps_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = epoch_order(len(examples), seed, epoch), epoch
            index = order[position * batch_size : (position + 1) * batch_size]
            yield (
                examples.paths[index],
                examples.labels[index],
                index,
                *_draw(augmentation, seed, epoch, index, image_size),
            )

    dataset = _planned(plan, image_size, batch_size)
    if where == "device":
        return _batches(dataset)
    return _batches(dataset.map(_changed(augmentation, image_size, scaling)))


_SAME_COLOUR = np.vstack([np.eye(3), np.ones((1, 3))]).astype(np.float32)
_Planned = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _draw(
    augmentation: Augmentation, seed: int, epoch: int, index: np.ndarray, image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The geometry of a batch, by rows without the last entry of each matrix, which is 1; and its colours."""
    affine = np.stack([draw_affine(augmentation, seed, epoch, int(i), image_size) for i in index])
    if augmentation.changes_colour:
        colour = np.stack([draw_colour(augmentation, seed, epoch, int(i)) for i in index])
    else:
        colour = np.tile(_SAME_COLOUR, (len(index), 1, 1))
    return affine.reshape(-1, 9)[:, :8], colour


def _planned(plan: Callable[[], Iterator[_Planned]], image_size: int, batch_size: int) -> tf.data.Dataset:
    """The batches of a plan, which says of each its paths, labels, indices, geometry and colours; decoded."""

    def load(path: tf.Tensor, label: tf.Tensor, index: tf.Tensor, affine: tf.Tensor, colour: tf.Tensor) -> Any:
        return {"image": _load(path, image_size), "label": label, "index": index, "affine": affine, "colour": colour}

    signature = (
        tf.TensorSpec([None], tf.string),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None], tf.int64),
        tf.TensorSpec([None, 8], tf.float32),
        tf.TensorSpec([None, 4, 3], tf.float32),
    )
    dataset = tf.data.Dataset.from_generator(plan, output_signature=signature).unbatch()
    return dataset.map(load, num_parallel_calls=_PARALLEL).batch(batch_size)


def _changed(augmentation: Augmentation, image_size: int, scaling: Scaling) -> Callable[[dict[str, tf.Tensor]], Any]:
    """The change of a batch as drawn for it."""

    def change(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = tf.raw_ops.ImageProjectiveTransformV3(
            images=batch["image"],
            transforms=batch["affine"],
            output_shape=[image_size, image_size],
            interpolation="BILINEAR",
            fill_mode=augmentation.fill_mode.upper(),
            fill_value=augmentation.fill_value,
        )
        if augmentation.changes_colour:
            image = _recolour(image, batch["colour"])
        return {"image": _scale(image, scaling), "label": batch["label"], "index": batch["index"]}

    return change


def _recolour(image: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    """Changes the colours of images `[batch, height, width, 3]` from 0 to 255, as `draw_colour` says."""
    image = tf.einsum("bhwc,bdc->bhwd", image, colour[:, :3])
    mean = tf.reduce_mean(image, (1, 2), keepdims=True)
    return tf.clip_by_value(mean + colour[:, None, 3:] * (image - mean), 0, 255)


def eval_batches(
    examples: Examples,
    *,
    image_size: int,
    scaling: Scaling,
    batch_size: int,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    epoch: int = 0,
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

    Returns:
        An iterator of `image` and `label` as above and `mask` bool `[batch]`, False for what fills up.
    """

    def load(path: tf.Tensor, label: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"image": _scale(_load(path, image_size), scaling), "label": label}

    def plan() -> Iterator[_Planned]:
        for first in range(0, len(examples), batch_size):
            index = np.arange(first, min(first + batch_size, len(examples)))
            drawn = _draw(augmentation or Augmentation(), seed, epoch, index + _VALIDATION, image_size)
            yield examples.paths[index], examples.labels[index], index, *drawn

    if augmentation:
        dataset = _planned(plan, image_size, batch_size).map(_changed(augmentation, image_size, scaling))
    else:
        dataset = tf.data.Dataset.from_tensor_slices((examples.paths, examples.labels))
        dataset = dataset.map(load, num_parallel_calls=_PARALLEL).batch(batch_size)
    for batch in _batches(dataset):
        n = len(batch["label"])
        whole = {"image": batch["image"], "label": batch["label"], "mask": np.ones(n, bool)}
        missing = batch_size - n
        yield {k: np.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)) if missing else v for k, v in whole.items()}


def _batches(dataset: tf.data.Dataset) -> Iterator[Batch]:
    """Reads ahead, and names the image that cannot be read although it could when the run began."""
    try:
        yield from dataset.prefetch(_PREFETCH).as_numpy_iterator()
    except tf.errors.OpError as error:
        line = str(error.message).partition("\n")[0]
        raise DataError(f"an image changed or went away while it was used: {line}: mend it and start again") from error


def _load(path: tf.Tensor, image_size: int) -> tf.Tensor:
    """A JPEG as float32 `[size, size, 3]` from 0 to 255.

    Made smaller, a pixel is the mean of the area it covers: as free of aliasing as TensorFlow's `antialias=True` and
    three times as fast. That method would repeat pixels of an image made larger, which is interpolated instead.
    """
    image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    size = (image_size, image_size)
    return tf.cond(
        tf.reduce_all(tf.shape(image)[:2] >= size),
        lambda: tf.image.resize(image, size, tf.image.ResizeMethod.AREA),
        lambda: tf.image.resize(image, size),
    )


def _scale(image: tf.Tensor, scaling: Scaling) -> tf.Tensor:
    low, high = scaling
    return low + (high - low) * (image / 255)
