"""The files that images are in: their bytes, and whether they have changed."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from input_pipeline.tfds_source import file_of, is_address, read_record


def read_bytes(path: str) -> bytes:
    """A JPEG or PNG, as a file or as a record of a TFDS data set.

    Raises:
        OSError: the file cannot be read.
        DataError: the record cannot be read.
    """
    return read_record(path) if is_address(path) else Path(path).read_bytes()


def files_hash(paths: Sequence[str]) -> str:
    """A SHA-256 that is another if a file's name, size or time of change is.

    Raises:
        OSError: a file is missing.
    """
    digest = hashlib.sha256()
    for path in paths:
        state = os.stat(file_of(path))
        digest.update(f"{os.path.basename(path)},{state.st_size},{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()
