"""Reads the bytes of images from files and TFDS records, and detects files that have changed."""

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from input_pipeline.errors import DataError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
UNSUPPORTED_SUFFIXES = (
    ".arw", ".avif", ".cr2", ".dcm", ".dng", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".psd", ".svg"
)  # fmt: skip

# Windows, macOS, Synology and Linux create these.
_CLUTTER = ("thumbs.db", "desktop.ini", "$recycle.bin", "__macosx", "@eadir", "lost+found")
_CLUTTER_SUFFIX = ":zone.identifier"  # of files that were copied from Windows to its Linux
PREPARE_AGAIN = "remove it, and create it again with `mobilenet-jax prepare RAW DST --to tfds`"
_ADDRESS = re.compile(r"(.+\.array_record-\d+-of-\d+)#(\d+)[/\\][^/\\]+")


def read_image_bytes(path: str) -> bytes:
    """Reads the bytes of an image from a file or from a record of a TFDS data set.

    Raises:
        OSError: the file cannot be read.
        DataError: the record cannot be read.
    """
    return read_record(path) if is_address(path) else Path(path).read_bytes()


def is_clutter(name: str) -> bool:
    """Returns whether a file or folder name is hidden, or one that a system adds: no part of the data."""
    return name.startswith(".") or name.lower() in _CLUTTER or name.lower().endswith(_CLUTTER_SUFFIX)


def index_by_stem(files: Iterable[str], faults: list[str]) -> dict[str, str]:
    """Returns stem -> file. Of files with the same stem, the first is kept, and the others are added to the faults."""
    indexed: dict[str, str] = {}
    for file in files:
        stem = os.path.splitext(os.path.basename(file))[0]
        if (first := indexed.setdefault(stem, file)) != file:
            faults.append(f"{file} has the same name as {first}: rename or remove one of the two")
    return indexed


def hash_files(paths: Sequence[str]) -> str:
    """Computes a SHA-256 that changes if the name, size or modification time of a file changes.

    Raises:
        OSError: a file is missing.
    """
    digest = hashlib.sha256()
    for path in paths:
        state = os.stat(_get_file(path))
        digest.update(f"{os.path.basename(path)},{state.st_size},{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def is_address(path: str) -> bool:
    """Returns whether a path is the address of a record rather than of a file."""
    return _ADDRESS.fullmatch(path) is not None


def _get_file(path: str) -> str:
    """Returns the file that holds an image: the path itself, or the file of records of an address."""
    match = _ADDRESS.fullmatch(path)
    return match[1] if match else path


def read_record(address: str) -> bytes:
    """Reads the JPEG file of an example, byte for byte. Any number of threads may read at the same time.

    Raises:
        DataError: the record is damaged or missing.
    """
    from tensorflow.train import Example

    if not (match := _ADDRESS.fullmatch(address)):
        raise ValueError(f"{address} is not the address of a record")
    try:
        record = open_records(match[1])[int(match[2])]
    except (RuntimeError, ValueError) as error:  # ArrayRecord's: an unreadable file, a number beyond its end
        raise DataError(f"{address} cannot be read ({error}): {PREPARE_AGAIN}") from error
    return Example.FromString(record).features.feature["image"].bytes_list.value[0]


@functools.cache
def open_records(path: str) -> Sequence[bytes]:
    """Opens a file of records; it stays open until the process ends."""
    try:
        from array_record.python.array_record_data_source import ArrayRecordDataSource
    except ImportError as error:
        raise DataError(f"array_record, which reads {path}, does not support this system") from error
    return ArrayRecordDataSource([path])
