"""Writes files and folders completely or not at all, and checks that the disk has room for them.

Everything is written under a temporary name in the destination's folder and renamed when it is complete. A process that
is killed leaves at most the temporary name, never a partial file under the final one. Modules that write files use this
one, except `write_folders`, whose copies resume, and libraries that write their own. It is in this package because
`input_pipeline` imports nothing of `mobilenet_jax`.
"""

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import filelock

_SUFFIX = ".unfinished"
_LOCK = "lock"  # in the temporary folder; held by the process that writes
_SECONDS_UNTIL_LOCKED = 1  # a folder this old is locked by its process, or left by one that was killed
_SECONDS_PER_DAY = 86_400
# Errors of `write`, which do not name the file.
_DISK_ERRORS = {errno.ENOSPC, errno.EIO, errno.EFBIG} | {getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write a file or a folder to, and renames it to `path` at the end.

    If the block raises, the temporary path is removed and `path` keeps its content.

    Args:
        path: the destination; an existing file is replaced by a file, and a folder by a folder. A symbolic link is
            followed.

    Raises:
        OSError: the folder of `path` does not exist or cannot be written, `path` is a device or a pipe, or
            a file would replace a folder, or vice versa.
    """
    with _Replacement.open(path) as replacement:
        yield replacement.unfinished
        try:
            if replacement.path.is_dir():  # a folder cannot be replaced in a single step
                replacement.set_aside()
            replacement.finish()
        except BaseException:  # KeyboardInterrupt, too
            if not replacement.path.exists():
                replacement.restore()
            raise


@contextlib.contextmanager
def replace_with_description(path: Path, description: Path) -> Iterator[tuple[Path, Path]]:
    """Works like `replace_atomically` for a file or a folder, and a second file that describes it.

    At no time is `path` next to a description of something else: both are set aside before the description appears,
    and `path` appears last. A process that is killed in between leaves no `path`.

    Args:
        path: the destination.
        description: the second file.

    Raises:
        OSError: see `replace_atomically`.
    """
    with _Replacement.open(description) as second, _Replacement.open(path) as first:
        yield first.unfinished, second.unfinished
        try:
            first.set_aside()
            second.set_aside()
            second.finish()
            first.finish()
        except BaseException:
            if not first.path.exists():
                second.restore()
                first.restore()
            raise


class _Replacement(NamedTuple):
    """A destination and its temporary names.

    Attributes:
        path: the destination.
        unfinished: the path that the block writes.
        previous: the path of the previous content, if that is set aside.
    """

    path: Path
    unfinished: Path
    previous: Path

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path) -> Iterator["_Replacement"]:
        path = Path(os.path.realpath(path))
        if path.exists() and not path.is_file() and not path.is_dir():  # renaming would replace a device
            raise OSError(errno.EINVAL, "it exists and is not a regular file", str(path))
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
        with contextlib.ExitStack() as stack:
            stack.enter_context(_name_destination(path))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(_SUFFIX, ".", path.parent)))
            stack.enter_context(_lock(folder))
            new, old = folder / "new", folder / "old"
            new.mkdir()
            old.mkdir()
            yield cls(path, new / path.name, old / path.name)

    def set_aside(self) -> None:
        if self.path.is_dir() and not self.unfinished.is_dir():  # a file does not replace all that a folder holds
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
        if self.path.exists():
            os.replace(self.path, self.previous)

    def finish(self) -> None:
        flush_to_disk(self.unfinished)
        os.replace(self.unfinished, self.path)

    def restore(self) -> None:
        if self.previous.exists():
            os.replace(self.previous, self.path)


@contextlib.contextmanager
def _name_destination(path: Path) -> Iterator[None]:
    """Makes errors of the disk name the destination, not a temporary name or nothing."""
    try:
        yield
    except OSError as error:
        file = Path(os.fsdecode(error.filename)) if error.filename is not None else None
        is_temporary = file is not None and any(map(is_unfinished, (file, *file.parents)))
        if is_temporary or (error.filename is None and error.errno in _DISK_ERRORS):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Marks a temporary folder as in use until the process ends, where the file system has locks."""
    lock = filelock.FileLock(folder / _LOCK)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock)
        except (OSError, NotImplementedError):
            (folder / _LOCK).unlink(missing_ok=True)
        yield


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file completely or not at all; text is encoded as UTF-8.

    Raises:
        OSError: the file cannot be written.
    """
    with replace_atomically(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def flush_to_disk(path: Path) -> None:
    """Waits until a file or folder is on the disk: otherwise a power failure can leave its new name with no content."""
    for file in filter(Path.is_file, (path, *path.rglob("*"))):
        with file.open("rb+") as content:
            os.fsync(content.fileno())


def get_free_bytes(path: Path) -> int:
    """Returns the free bytes on the disk that holds `path`, which must exist."""
    return shutil.disk_usage(path).free


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files that killed processes left in a folder.

    Where the file system has no locks, a name that is younger than a day is kept: it may belong to a running process.
    One that holds previous content is kept while its destination is missing: it may be the only copy.
    """
    for path in filter(is_unfinished, folder.iterdir()):
        with contextlib.suppress(OSError):  # its process has just finished
            if _is_left(path) and all((folder / previous.name).exists() for previous in path.glob("old/*")):
                shutil.rmtree(path, ignore_errors=True)


def _is_left(path: Path) -> bool:
    """Returns whether no process writes to a temporary folder any more."""
    age = time.time() - path.stat().st_mtime
    if age < _SECONDS_UNTIL_LOCKED or not (path / _LOCK).exists():
        return age > _SECONDS_PER_DAY
    try:
        with filelock.FileLock(path / _LOCK, blocking=False):
            return True
    except filelock.Timeout:
        return False


def is_unfinished(path: Path) -> bool:
    """Returns whether a path is the temporary name of an interrupted write."""
    return path.name.startswith(".") and path.name.endswith(_SUFFIX)
