"""Images decoded once: uint8 at the network's size, in memory or in a file that is mapped into it.

CACHE/decoded/NAME/images.npy    uint8 [n, size, size, 3]
CACHE/decoded/NAME/index.json    what the images were made from; written last, so that it stands for a whole file

CACHE is the user's cache folder, NAME a hash of the files' names and of the size. Reading needs numpy alone.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pooch
import psutil
from tqdm import tqdm

from input_pipeline.errors import DataError
from input_pipeline.image_files import hash_files

CacheKind = Literal["none", "memory", "disk"]

_FORMAT = 2  # raised when other pixels come out of the same files, so that caches are made anew


@dataclass(frozen=True, eq=False)
class Cache:
    """Decoded images.

    Attributes:
        images: uint8 `[n, size, size, 3]`.
        row_of: file -> its position in `images`.
    """

    images: np.ndarray
    row_of: dict[str, int]

    def rows(self, paths: np.ndarray) -> np.ndarray:
        """int64 `[m]`, the positions of files in `images`."""
        return np.array([self.row_of[path] for path in paths], np.int64)


def open_cache(kind: CacheKind, paths: np.ndarray, image_size: int) -> Cache | None:
    """Decodes images that are not decoded yet.

    Args:
        kind: where to; `"none"` decodes nothing.
        paths: `[n]` str, the image files.
        image_size: height and width in pixels.

    Raises:
        DataError: there is no room for them; the message says how much they need.
    """
    if kind == "none":
        return None
    shape = (len(paths), image_size, image_size, 3)
    row_of = {path: row for row, path in enumerate(paths.tolist())}
    if kind == "disk":
        return Cache(_on_disk(paths, shape), row_of)
    _check_room("memory", shape, psutil.virtual_memory().available, "")
    return Cache(_fill(np.empty(shape, np.uint8), paths), row_of)


def _on_disk(paths: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    names = "\n".join([str(shape[1]), *(os.path.basename(path) for path in paths)])
    folder = Path(pooch.os_cache("mobilenet-jax")) / "decoded" / hashlib.sha256(names.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    file, index = folder / "images.npy", folder / "index.json"
    description = {"format": _FORMAT, "shape": list(shape), "files": hash_files(paths.tolist())}
    with _locked(folder):
        if not _is_whole(file, index, description):
            unfinished = folder / "images.npy.unfinished"
            unfinished.unlink(missing_ok=True)
            _check_room("disk", shape, shutil.disk_usage(folder).free, f" in {folder}")
            index.unlink(missing_ok=True)
            images = np.lib.format.open_memmap(unfinished, "w+", np.uint8, shape)
            _fill(images, paths)
            images.flush()
            os.replace(unfinished, file)
            (folder / "index.json.unfinished").write_text(json.dumps(description, indent=2) + "\n")
            os.replace(folder / "index.json.unfinished", index)
        return np.load(file, mmap_mode="r")


def _is_whole(file: Path, index: Path, description: dict[str, object]) -> bool:
    """Whether a cache is there and of these files as they are now; why not, if there was one, is printed."""
    if not index.exists():
        return False
    try:
        found = json.loads(index.read_text())
        images = np.load(file, mmap_mode="r")
    except (OSError, ValueError) as error:
        print(f"cache: {file.parent} cannot be read ({error}), made anew", file=sys.stderr)
        return False
    if found != description or list(images.shape) != description["shape"] or images.dtype != np.uint8:
        print(f"cache: images have changed since {file.parent} was made, made anew", file=sys.stderr)
        return False
    print(f"cache: {len(images):,} images in {file.parent}")
    return True


def _check_room(where: str, shape: tuple[int, ...], free: int, place: str) -> None:
    needed = int(np.prod(shape, dtype=np.int64))
    print(f"cache: {shape[0]:,} images of {shape[1]} x {shape[2]} take {needed / 1e6:,.1f} MB of {where}{place}")
    if needed > 0.9 * free:
        raise DataError(
            f"data.cache={where} needs {needed / 1e6:,.1f} MB{place} and {free / 1e6:,.1f} MB are free: make room, or "
            "take a smaller data.image_size or another data.cache"
        )


def _fill(images: np.ndarray, paths: np.ndarray) -> np.ndarray:
    from input_pipeline.tf_graph import decode_images  # TensorFlow, which is not needed again

    found = decode_images(paths, images.shape[1])
    for row, image in enumerate(tqdm(found, "decoding", len(paths), unit=" images", disable=None, leave=False)):
        images[row] = image
    return images


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds other processes off until the cache is whole."""
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
