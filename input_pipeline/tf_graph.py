"""The tf.data graphs: images read, decoded and changed in parallel, in a given order. Draws nothing."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # JAX sets it to 1
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # nothing is shown: what goes wrong is raised too
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # nor a word on a library for layers it is not asked for

import tensorflow as tf

from input_pipeline.errors import DataError
from input_pipeline.examples import Batch
from input_pipeline.image_files import is_address, read_record
from input_pipeline.image_ops import resize

with suppress(RuntimeError):  # where somebody else has set it up already
    tf.config.set_visible_devices([], "GPU")  # or TensorFlow takes all the memory JAX is to have

Change = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

_PARALLEL = os.cpu_count() or 1
_PREFETCH = 2  # batches; a fixed number, so that memory does not depend on what tf.data finds worth buffering


def decode_images(paths: np.ndarray, image_size: int) -> Iterator[np.ndarray]:
    """Each image in turn, uint8 `[image_size, image_size, 3]`."""
    dataset, read = tf.data.Dataset.from_tensor_slices(paths), _reader(paths[0])
    yield from _run(dataset.map(lambda path: _resized(read(path), image_size), num_parallel_calls=_PARALLEL))


def can_decode(data: bytes) -> bool:
    """Whether a JPEG or PNG is whole, as far as its decoder can tell."""
    try:
        tf.io.decode_jpeg(data, channels=3, ratio=8)  # an eighth of a JPEG's size reads all of it and is quick
    except tf.errors.InvalidArgumentError:
        return False
    return True


def run_plan(
    plan: Callable[[], Iterator[Batch]],
    image_size: int,
    batch_size: int,
    change: Change | None,
    images: np.ndarray | None,
) -> Iterator[Batch]:
    """The batches of a plan, with their pixels.

    Args:
        plan: gives `source` (`[batch]`, paths, or rows of `images`), `affine`, `color` and whatever else.
        image_size: height and width in pixels.
        batch_size: of all batches but, perhaps, the last.
        change: of an image, its affine and its color to float32; None leaves both to another place.
        images: uint8 `[n, image_size, image_size, 3]`, decoded already.

    Returns:
        An iterator of what the plan gives, with `image` in the place of `source`; where images are changed, in the
        place of `affine` and `color` too.
    """
    first = next(plan())
    signature = {name: tf.TensorSpec([None, *a.shape[1:]], tf.as_dtype(a.dtype)) for name, a in first.items()}
    dataset = tf.data.Dataset.from_generator(plan, output_signature=signature)

    def load(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        rest = dict(example)
        return {"image": _resized(read(rest.pop("source")), image_size), **rest}

    def changed(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        rest = dict(batch)
        drawn = [rest.pop("image"), rest.pop("affine"), rest.pop("color")]
        return {"image": tf.numpy_function(change, drawn, tf.float32), **rest}

    if images is None:
        read = _reader(first["source"][0]) if len(first["source"]) else tf.io.read_file
        dataset = dataset.unbatch().map(load, num_parallel_calls=_PARALLEL).batch(batch_size)
    else:
        gather = images.__getitem__

        def take(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            rest = dict(batch)
            return {"image": tf.numpy_function(gather, [rest.pop("source")], tf.uint8), **rest}

        dataset = dataset.map(take, num_parallel_calls=_PARALLEL)
    if change:
        dataset = dataset.map(changed, num_parallel_calls=_PARALLEL)
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing left to tune, and its thread takes a second to end
    return _run(dataset.prefetch(_PREFETCH).with_options(options))


def _reader(path: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """What reads the bytes of an image, by one of the paths."""
    if not is_address(path):
        return tf.io.read_file
    return lambda address: tf.ensure_shape(
        tf.numpy_function(lambda a: read_record(a.decode()), [address], tf.string), []
    )


def _resized(data: tf.Tensor, image_size: int) -> tf.Tensor:
    size = (image_size, image_size)
    resized = tf.numpy_function(lambda image: resize(image, size), [_decode(data, image_size)], tf.uint8)
    return tf.ensure_shape(resized, [*size, 3])


def _decode(data: tf.Tensor, image_size: int) -> tf.Tensor:
    """uint8 `[height, width, 3]`, neither below the network's size if the image is not.

    A JPEG of twice that size or more is decoded at a half, quarter or eighth of its own, which its blocks of
    frequencies give directly: less work than decoding it whole and averaging pixels afterwards.
    """

    def decode(ratio: int) -> Callable[[], tf.Tensor]:  # to the same pixels as Pillow, and OpenCV in `images.decode`
        return lambda: tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    def decode_jpeg() -> tf.Tensor:
        times = tf.reduce_min(tf.image.extract_jpeg_shape(data)[:2]) // image_size
        return tf.switch_case(tf.reduce_sum(tf.cast(times >= [2, 4, 8], tf.int32)), [decode(r) for r in (1, 2, 4, 8)])

    return tf.cond(tf.io.is_jpeg(data), decode_jpeg, decode(1))


def _run(dataset: tf.data.Dataset) -> Iterator[Any]:
    """Names the image that cannot be read although it could when the run began."""
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        line = str(error.message).partition("\n")[0]
        raise DataError(f"an image changed or went away while it was used: {line}: mend it and start again") from error
