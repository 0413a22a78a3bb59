"""A cache of decoded images: uint8 at the network's size, in memory or in a memory-mapped file.

CACHE/decoded/NAME/images.npy    uint8 [n, size, size, 3]
CACHE/decoded/NAME/index.json    the format, shape and source files; written last, so that it marks a complete cache

CACHE is the user's cache folder, NAME a hash of the file names relative to their common folder, in alphabetical order,
of the size and of the preprocessing, so that all splits of the same images share a cache. Caches that no run has opened
for 30 days are removed. Reading requires numpy only.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import filelock
import numpy as np
from tqdm import tqdm

from input_pipeline.atomic_files import get_free_bytes, replace_atomically, write_atomically
from input_pipeline.errors import DataError
from input_pipeline.image_files import hash_files
from input_pipeline.preprocessing import STRETCH, Preprocessing
from input_pipeline.resources import measure_free_memory
from input_pipeline.user_cache import create_cache_folder

CacheKind = Literal["none", "memory", "disk"]

_MAX_AGE = 30 * 86_400  # seconds
_FORMAT = 3  # raised when the same files decode to other pixels, so that existing caches are replaced

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Cache:
    """Decoded images.

    Attributes:
        images: uint8 `[n, size, size, 3]`.
        row_of: file -> its index in `images`.
    """

    images: np.ndarray
    row_of: dict[str, int]

    def get_rows(self, paths: np.ndarray) -> np.ndarray:
        """Returns int64 `[m]`, the indices of files in `images`."""
        return np.array([self.row_of[path] for path in paths], np.int64)


def open_cache(
    kind: CacheKind, paths: np.ndarray, image_size: int, preprocessing: Preprocessing = STRETCH
) -> Cache | None:
    """Opens a cache, and decodes the images that are not in it yet.

    Args:
        kind: where to cache; `"none"` returns None.
        paths: `[n]` str, the image files.
        image_size: height and width in pixels.
        preprocessing: of the decoded images.

    Raises:
        DataError: there is not enough space; the message gives the size of the images.
        UserError: the user's cache cannot be written.
    """
    if kind == "none":
        return None
    paths = np.array(sorted(paths, key=os.path.abspath), np.str_)  # as they are hashed, however they are written
    shape = (len(paths), image_size, image_size, 3)
    if kind == "disk":
        images = _open_disk_cache(paths, shape, preprocessing)
    else:
        _check_space("memory", shape, measure_free_memory(), "")
        images = _decode_into(np.empty(shape, np.uint8), paths, preprocessing)
    return Cache(images, {path: row for row, path in enumerate(paths.tolist())})


def _open_disk_cache(paths: np.ndarray, shape: tuple[int, ...], preprocessing: Preprocessing) -> np.ndarray:
    variant = "" if preprocessing == STRETCH else " ".join(preprocessing)  # empty in earlier versions
    names = "\n".join([f"{shape[1]}{variant}", *sorted(_name_files(paths))])
    folder = create_cache_folder(f"decoded/{hashlib.sha256(names.encode()).hexdigest()[:16]}")
    file, index = folder / "images.npy", folder / "index.json"
    description = {"format": _FORMAT, "shape": list(shape), "files": hash_files(paths.tolist())}
    with filelock.FileLock(folder / "lock"):  # makes other processes wait until the cache is complete
        if not _is_valid(file, index, description):
            _remove_unfinished(folder)
            for outdated in (index, file):
                outdated.unlink(missing_ok=True)
            _check_space("disk", shape, get_free_bytes(folder), f" in {folder}")
            with replace_atomically(file) as unfinished:
                images = np.lib.format.open_memmap(unfinished, "w+", np.uint8, shape)
                _decode_into(images, paths, preprocessing)
                images.flush()
                del images  # Windows does not rename a file that is mapped
            write_atomically(index, json.dumps(description, indent=2) + "\n")
        os.utime(folder)  # the time that a run opened the cache last
        _remove_old_caches(folder.parent)
        return np.load(file, mmap_mode="r")


def _name_files(paths: np.ndarray) -> list[str]:
    """Returns paths relative to the deepest folder that holds all files, which may be moved."""
    files = [os.path.abspath(path) for path in paths]
    try:
        start = len(os.path.commonpath({os.path.dirname(file) for file in files}).rstrip(os.sep)) + 1
    except ValueError:  # on several drives of Windows
        start = 0
    return [file[start:] for file in files]


def _is_valid(file: Path, index: Path, description: dict[str, object]) -> bool:
    """Returns whether a complete cache of these files exists; if there is another one, logs why it is replaced."""
    if not index.exists():
        return False
    try:
        cached = json.loads(index.read_text())
        images = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:  # the last: it is empty
        _logger.warning("the cache %s cannot be read (%s): decoding the images again", file.parent, error)
        return False
    if cached != description or list(images.shape) != description["shape"] or images.dtype != np.uint8:
        _logger.info(
            "cache: %s is outdated, because the images or the version changed: decoding the images again", file.parent
        )
        return False
    _logger.info("cache: %s images in %s", f"{len(images):,}", file.parent)
    return True


def _remove_old_caches(folder: Path) -> None:
    """Removes the caches, complete or not, that no run has opened for a long time."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError, filelock.Timeout):  # another process is removing it, or writing it
            if time.time() - path.stat().st_mtime > _MAX_AGE:
                with filelock.FileLock(path / "lock", blocking=False):
                    _logger.info("cache: removing %s, which no run has opened for %d days", path, _MAX_AGE // 86_400)
                    shutil.rmtree(path)


def _remove_unfinished(folder: Path) -> None:
    """Removes the unfinished files of processes that were killed, which can be as large as the cache itself.

    The lock must be held: no other process can then be writing them.
    """
    for path in folder.glob("*.unfinished"):  # those of earlier versions, which have no dot, too
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _check_space(kind: CacheKind, shape: tuple[int, ...], free: int, place: str) -> None:
    """Logs the size of the images, and raises a DataError if it exceeds the free space."""
    n, height, width, _ = shape
    size = int(np.prod(shape, dtype=np.int64))
    _logger.info(
        "cache: %s images of %d x %d take %s MB of %s%s", f"{n:,}", height, width, f"{size / 1e6:,.1f}", kind, place
    )
    if size > 0.9 * free:
        raise DataError(
            f"data.cache={kind} needs {size / 1e6:,.1f} MB{place}, but {free / 1e6:,.1f} MB are free: free some space, "
            "or choose a smaller data.image_size or another data.cache"
        )


def _decode_into(images: np.ndarray, paths: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    from input_pipeline.tf_graph import decode_images  # imports TensorFlow, which an existing cache does not need

    decoded = decode_images(paths, images.shape[1], preprocessing)
    for row, image in enumerate(tqdm(decoded, "decoding", len(paths), unit=" images", disable=None, leave=False)):
        images[row] = image
    return images
