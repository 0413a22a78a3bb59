"""The tf.data graphs: read, decode and augment images in parallel, in a given order. Nothing here is random."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # JAX sets it to 1
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # logs nothing, since errors are raised as well
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # silences a notice about a library for layers, unused here

import tensorflow as tf

from input_pipeline.errors import DataError, get_first_line
from input_pipeline.examples import Batch
from input_pipeline.image_files import is_address, read_record
from input_pipeline.image_ops import OVERSAMPLING, PNG_SIGNATURE, decode_with_pillow, preprocess
from input_pipeline.preprocessing import STRETCH, Preprocessing
from input_pipeline.resources import count_cpus

with suppress(RuntimeError):  # TensorFlow is initialized already, by other code
    tf.config.set_visible_devices([], "GPU")  # otherwise TensorFlow allocates all the memory that JAX needs

# Conditions are written as `tf.cond`, so Python's statements need no conversion, which takes time at every start.
_unconverted = tf.autograph.experimental.do_not_convert

Augment = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
_Columns = dict[str, tf.Tensor]

_PARALLEL = count_cpus()
# Batches: at most eight at once, so that memory use is bounded on machines with many cores.
_PARALLEL_BATCHES = min(_PARALLEL, 8)
_PREFETCH = 2
# The start of an error message: the operations that it passed, and its type in Python.
_TENSORFLOW_PREFIX = re.compile(r"^\{\{.*?\}\} (.*Iterator::Root\S*: )?(\w+Error: )?")


def decode_images(paths: np.ndarray, image_size: int, preprocessing: Preprocessing = STRETCH) -> Iterator[np.ndarray]:
    """Yields each image in order, uint8 `[image_size, image_size, 3]`."""
    read = _make_reader(paths[0])

    @_unconverted
    def read_image(path: tf.Tensor) -> tf.Tensor:
        return _preprocess(read(path), image_size, preprocessing)

    dataset = tf.data.Dataset.from_tensor_slices(paths)
    yield from _iterate(dataset.map(read_image, num_parallel_calls=_PARALLEL))


def can_decode(data: bytes) -> bool:
    """Returns whether a JPEG or PNG is complete, as far as its decoder can detect."""
    try:
        tf.io.decode_jpeg(data, channels=3, ratio=8)  # decoding a JPEG at an eighth reads all of it and is fast
    except tf.errors.InvalidArgumentError:
        return False
    return True


def run_plan(
    plan: Callable[[], Iterator[Batch]],
    image_size: int,
    batch_size: int,
    augment: Augment | None,
    images: np.ndarray | None,
    preprocessing: Preprocessing,
) -> Iterator[Batch]:
    """Yields the batches of a plan with their pixels.

    Args:
        plan: yields batches of `source` (`[batch]`, paths or rows of `images`), `affine`, `color` and other columns.
        image_size: height and width in pixels.
        batch_size: the size of all batches, except possibly the last.
        augment: maps images, affine and color to float32 images; None leaves the images and both columns as they are.
        images: uint8 `[n, image_size, image_size, 3]`, the decoded images; None reads the files.
        preprocessing: of the files.

    Returns:
        An iterator of the plan's columns with `image` instead of `source`; if images are augmented, instead of
        `affine` and `color` as well.
    """
    first = next(plan())
    signature = {name: tf.TensorSpec([None, *a.shape[1:]], tf.as_dtype(a.dtype)) for name, a in first.items()}
    plans = [plan]  # TensorFlow keeps the function for ever, but need not keep the plan
    dataset = tf.data.Dataset.from_generator(lambda: plans[0](), output_signature=signature)

    @_unconverted
    def read_image(example: Mapping[str, tf.Tensor]) -> _Columns:
        columns = dict(example)
        return {"image": _preprocess(read(columns.pop("source")), image_size, preprocessing), **columns}

    @_unconverted
    def gather_images(batch: Mapping[str, tf.Tensor]) -> _Columns:
        columns = dict(batch)
        return {"image": tf.numpy_function(gather, [columns.pop("source")], tf.uint8), **columns}

    @_unconverted
    def augment_batch(batch: Mapping[str, tf.Tensor]) -> _Columns:
        columns = dict(batch)
        arguments = [columns.pop(name) for name in ("image", "affine", "color")]
        return {"image": tf.numpy_function(augment, arguments, tf.float32), **columns}

    if images is None:
        read = _make_reader(first["source"][0]) if len(first["source"]) else tf.io.read_file
        dataset = dataset.unbatch().map(read_image, num_parallel_calls=_PARALLEL).batch(batch_size)
    else:
        gather = images.__getitem__
        dataset = dataset.map(gather_images, num_parallel_calls=_PARALLEL_BATCHES)
    if augment:
        dataset = dataset.map(augment_batch, num_parallel_calls=_PARALLEL_BATCHES)
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing left to tune, and its thread takes a second to end
    return _iterate(dataset.prefetch(_PREFETCH).with_options(options), plans.clear)


def _make_reader(path: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the operation that reads the bytes of images, chosen by one of their paths."""
    if not is_address(path):
        return tf.io.read_file
    return lambda address: tf.ensure_shape(
        tf.numpy_function(lambda a: read_record(a.decode()), [address], tf.string), []
    )


def _preprocess(data: tf.Tensor, image_size: int, preprocessing: Preprocessing) -> tf.Tensor:
    size = (image_size, image_size)
    decoded = _decode(data, image_size)
    pixels = tf.numpy_function(lambda image: preprocess(image, size, preprocessing), [decoded], tf.uint8)
    return tf.ensure_shape(pixels, [*size, 3])


def _decode(data: tf.Tensor, image_size: int) -> tf.Tensor:
    """Decodes to uint8 `[height, width, 3]`.

    A large JPEG is decoded at a half, quarter or eighth of its size, see `OVERSAMPLING`, which its blocks of
    frequencies give directly. That is less work than to decode all of it and to average pixels afterwards. Pillow
    decodes CMYK JPEGs, and the formats other than JPEG and PNG, as for inference.
    """

    def make_decoder(ratio: int) -> Callable[[], tf.Tensor]:  # the same pixels as Pillow's
        return lambda: tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    def decode_other() -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(decode_with_pillow, [data], tf.uint8), [None, None, 3])

    def decode_jpeg() -> tf.Tensor:
        shape = tf.image.extract_jpeg_shape(data)
        ratio = tf.reduce_min(shape[:2]) // image_size // OVERSAMPLING
        index = tf.reduce_sum(tf.cast(ratio >= [2, 4, 8], tf.int32))
        is_cmyk = shape[2] == 4
        return tf.cond(is_cmyk, decode_other, lambda: tf.switch_case(index, [make_decoder(r) for r in (1, 2, 4, 8)]))

    def decode_png_or_other() -> tf.Tensor:
        is_png = tf.strings.substr(data, 0, len(PNG_SIGNATURE)) == PNG_SIGNATURE
        return tf.cond(is_png, make_decoder(1), decode_other)

    return tf.cond(tf.io.is_jpeg(data), decode_jpeg, decode_png_or_other)


def _iterate(dataset: tf.data.Dataset, end: Callable[[], None] = lambda: None) -> Iterator[Any]:
    """Iterates over a dataset, and calls a function at the end.

    Raises:
        DataError: an image that was readable when the run began is not any more.
        MemoryError: there is not enough memory for an image.
        OSError: too many files are open.
    """
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        reason = _TENSORFLOW_PREFIX.sub("", get_first_line(error))
        if isinstance(error, tf.errors.ResourceExhaustedError):
            raise (OSError if "open files" in reason else MemoryError)(reason) from error
        raise DataError(
            f"an image changed or disappeared during the run ({reason}): start again for a validation of all images"
        ) from error
    finally:
        end()
