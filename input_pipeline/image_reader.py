"""ImageBatch as they are, for a trained model: in order, those that cannot be read left out. Needs no TensorFlow."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.image_files import read_image_bytes
from input_pipeline.image_ops import decode_image

_AHEAD = 3  # batches that are read while the model is at work
_TOGETHER = 16  # files that a thread is given at a time: with a task for each, small files take a third longer


class ImageBatch(NamedTuple):
    """A batch.

    Attributes:
        positions: int64 `[n]`, in the list of files.
        pixels: uint8 `[n, height, width, 3]`.
        faults: of those that could not be read, a line each, which names the file.
    """

    positions: np.ndarray
    pixels: np.ndarray
    faults: list[str]


def read_images(paths: Sequence[str] | np.ndarray, size: tuple[int, int], batch_size: int) -> Iterator[ImageBatch]:
    """Reads files in batches, several at a time and a few batches ahead; memory does not grow with their number.

    Args:
        paths: JPEG or PNG files, or records of a TFDS data set.
        size: height and width that each is brought to.
        batch_size: so many files a batch, less those that cannot be read.
    """

    def read(path: str) -> np.ndarray | str:
        try:
            path.encode()
            return decode_image(read_image_bytes(path), size)
        except UnicodeEncodeError:
            return f"{path!a} cannot be read (its name is not UTF-8, and no table could hold it)"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror or error})"
        except DataError as error:
            return f"{path} cannot be read ({error})"

    def read_all(part: Sequence[str] | np.ndarray) -> list[np.ndarray | str]:
        return [read(path) for path in part]

    def batch(start: int, futures: list[Future[list[np.ndarray | str]]]) -> ImageBatch:
        found = [image for future in futures for image in future.result()]
        good = [i for i, image in enumerate(found) if not isinstance(image, str)]
        pixels = np.stack([found[i] for i in good]) if good else np.zeros((0, *size, 3), np.uint8)
        return ImageBatch(np.array(good, np.int64) + start, pixels, [x for x in found if isinstance(x, str)])

    pending: deque[tuple[int, list[Future[list[np.ndarray | str]]]]] = deque()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            for start in range(0, len(paths), batch_size):
                end = min(start + batch_size, len(paths))
                parts = [paths[i : min(i + _TOGETHER, end)] for i in range(start, end, _TOGETHER)]
                pending.append((start, [pool.submit(read_all, part) for part in parts]))
                if len(pending) > _AHEAD:
                    yield batch(*pending.popleft())
            while pending:
                yield batch(*pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)
