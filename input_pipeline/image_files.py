"""The files that images are in: their bytes, and whether they have changed."""

import functools
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from input_pipeline.errors import DataError

PREPARE_AGAIN = "make it anew with `mobilenet-jax prepare RAW DST --to tfds`"
_ADDRESS = re.compile(r"(.+\.array_record-\d+-of-\d+)#(\d+)/[^/]+")


def read_image_bytes(path: str) -> bytes:
    """A JPEG or PNG, as a file or as a record of a TFDS data set.

    Raises:
        OSError: the file cannot be read.
        DataError: the record cannot be read.
    """
    return read_record(path) if is_address(path) else Path(path).read_bytes()


def hash_files(paths: Sequence[str]) -> str:
    """A SHA-256 that is another if a file's name, size or time of change is.

    Raises:
        OSError: a file is missing.
    """
    digest = hashlib.sha256()
    for path in paths:
        state = os.stat(file_of(path))
        digest.update(f"{os.path.basename(path)},{state.st_size},{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def is_address(path: str) -> bool:
    """Whether a path is the address of a record, and not that of a file."""
    return _ADDRESS.fullmatch(path) is not None


def file_of(path: str) -> str:
    """The file that an image is in: the path itself, or that of the records an address points into."""
    match = _ADDRESS.fullmatch(path)
    return match[1] if match else path


def read_record(address: str) -> bytes:
    """The JPEG file of an example, byte for byte. Any number of threads may read at a time.

    Raises:
        DataError: the record is damaged or gone.
    """
    from tensorflow.train import Example

    if not (match := _ADDRESS.fullmatch(address)):
        raise ValueError(f"{address} is no address of a record")
    try:
        record = open_records(match[1])[int(match[2])]
    except (RuntimeError, ValueError) as error:  # ArrayRecord's own: a file it cannot read, a number beyond its end
        raise DataError(f"{address} cannot be read ({error}): {PREPARE_AGAIN}") from error
    return Example.FromString(record).features.feature["image"].bytes_list.value[0]


@functools.cache
def open_records(path: str) -> Sequence[bytes]:
    """The records of a file, which stays open."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource([path])
