"""Writes files and folders completely or not at all, and checks that the disk has room for them.

Everything is written under a temporary name in the destination's folder and renamed when it is complete. A process that
is killed leaves at most the temporary name, never a partial file under the final one. Every module that writes a file
uses this one; it is in this package because `input_pipeline` imports nothing of `mobilenet_jax`.
"""

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_SUFFIX = ".unfinished"
_SECONDS_PER_DAY = 86_400


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write a file or a folder to, and renames it to `path` at the end.

    If the block raises, the temporary path is removed and `path` keeps what it held.

    Args:
        path: the destination; an existing file or folder is replaced. A symbolic link is followed.

    Raises:
        OSError: the folder of `path` does not exist or cannot be written, or `path` is a device or a pipe.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it exists and is not a regular file", str(path))  # renaming would replace a device
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    with tempfile.TemporaryDirectory(prefix=".", suffix=_SUFFIX, dir=path.parent) as folder:
        new, old = Path(folder) / "new", Path(folder) / "old"
        new.mkdir()
        old.mkdir()
        unfinished, previous = new / path.name, old / path.name
        yield unfinished
        if path.is_dir():  # a folder cannot be replaced in a single step
            os.replace(path, previous)
        try:
            os.replace(unfinished, path)
        except OSError:
            if previous.exists():
                os.replace(previous, path)
            raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file completely or not at all; text is encoded as UTF-8.

    Raises:
        OSError: the file cannot be written.
    """
    with replace_atomically(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())  # otherwise a power failure can leave the new name with no content


def get_free_bytes(path: Path) -> int:
    """Returns the free bytes on the disk that holds `path`, which must exist."""
    return shutil.disk_usage(path).free


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary names in a folder that processes which were killed left more than a day ago.

    A younger one may belong to a running process. One that holds the replaced file or folder is kept: it may be the
    only copy.
    """
    for path in filter(is_unfinished, folder.iterdir()):
        if time.time() - path.stat().st_mtime > _SECONDS_PER_DAY and not any(path.glob("old/*")):
            shutil.rmtree(path, ignore_errors=True)


def is_unfinished(path: Path) -> bool:
    """Returns whether a path is the temporary name of an interrupted write."""
    return path.name.startswith(".") and path.name.endswith(_SUFFIX)
