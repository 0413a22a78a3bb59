"""Reads images for inference: in order, without augmentation and without TensorFlow. Unreadable images are left out."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.image_files import read_image_bytes
from input_pipeline.image_ops import DecodedImage, decode_image
from input_pipeline.preprocessing import STRETCH, Preprocessing
from input_pipeline.resources import count_cpus

_BATCHES_AHEAD = 3  # batches that are read while the model is at work
_FILES_PER_TASK = 16  # with one task per file, small files take a third longer


_Result = DecodedImage | str  # an image, or a fault


class ImageBatch(NamedTuple):
    """A batch of images.

    Attributes:
        positions: int64 `[n]`, in the list of files.
        pixels: uint8 `[n, height, width, 3]`.
        is_rotated: bool `[n]`, whether viewers would rotate or flip the image, see `image_ops.is_marked_as_rotated`.
        faults: one line for each file that could not be read, with its name.
    """

    positions: np.ndarray
    pixels: np.ndarray
    is_rotated: np.ndarray
    faults: list[str]


def read_images(
    paths: Sequence[str] | np.ndarray,
    size: tuple[int, int],
    batch_size: int,
    preprocessing: Preprocessing = STRETCH,
) -> Iterator[ImageBatch]:
    """Reads files in batches, in several threads and a few batches ahead.

    Memory use does not depend on the number of files.

    Args:
        paths: image files, or addresses of records of a TFDS data set.
        size: height and width that all images are resized to.
        batch_size: files per batch, including those that cannot be read.
        preprocessing: see `image_ops.preprocess`.
    """

    def read_files(part: Sequence[str] | np.ndarray) -> list[_Result]:
        return [_read_file(path, size, preprocessing) for path in part]

    pending: deque[tuple[int, list[Future[list[_Result]]]]] = deque()
    with ThreadPoolExecutor(count_cpus()) as pool:
        try:
            for start in range(0, len(paths), batch_size):
                end = min(start + batch_size, len(paths))
                parts = [paths[i : min(i + _FILES_PER_TASK, end)] for i in range(start, end, _FILES_PER_TASK)]
                pending.append((start, [pool.submit(read_files, part) for part in parts]))
                if len(pending) > _BATCHES_AHEAD:
                    yield _collect_batch(*pending.popleft(), size)
            while pending:
                yield _collect_batch(*pending.popleft(), size)
        finally:
            pool.shutdown(cancel_futures=True)


def _read_file(path: str, size: tuple[int, int], preprocessing: Preprocessing) -> _Result:
    try:
        path.encode()
        return decode_image(read_image_bytes(path), size, preprocessing)
    except UnicodeEncodeError:
        return f"{path!a} cannot be read (its name is not UTF-8, so no table could hold it)"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror or error})"
    except DataError as error:
        return f"{path} cannot be read ({error})"


def _collect_batch(start: int, futures: list[Future[list[_Result]]], size: tuple[int, int]) -> ImageBatch:
    """Waits for the files of a batch, the first of which is at position `start`."""
    results = [result for future in futures for result in future.result()]
    readable = [(start + i, result) for i, result in enumerate(results) if not isinstance(result, str)]
    return ImageBatch(
        positions=np.array([position for position, _ in readable], np.int64),
        pixels=np.stack([image.pixels for _, image in readable]) if readable else np.zeros((0, *size, 3), np.uint8),
        is_rotated=np.array([image.is_rotated for _, image in readable], bool),
        faults=[result for result in results if isinstance(result, str)],
    )
