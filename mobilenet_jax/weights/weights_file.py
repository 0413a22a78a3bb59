"""An open weights file of any format: the result of every reader."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mobilenet_jax.weights.layout import Layout, Shape
from mobilenet_jax.weights.metadata import Metadata


class FileTensor(NamedTuple):
    """A tensor in a file: its name, shape and type as the file records them, and a function that reads its values."""

    name: str
    shape: Shape
    dtype: str
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class WeightsFile:
    """An open weights file. Its tensors are read on demand.

    Attributes:
        format: the format, for display.
        path: the file or folder that holds the tensors; for a workdir, the folder of the checkpoint.
        tensors: by their names in `layout.py`; a tensor that has none is listed under its name in the file.
        layout: the order of the axes of the tensors.
        metadata: the facts that the file records; missing ones have the defaults of `Metadata`.
        alpha: the width multiplier that the file records, as text; None if it records none.
        variant: attributes of `Architecture` that the shapes of the tensors do not show, if they differ from Keras's.
        checkpoint: identifies a checkpoint of a run, such as `best checkpoint, step 799`; None for other files.
        source: the location on the Hub that the file was downloaded from, with its commit; None for other files.
        descriptions: the JSON files beside it that were read; they belong to its hash.
    """

    format: str
    path: Path
    tensors: dict[str, FileTensor]
    layout: Layout
    metadata: Metadata
    alpha: str | None = None
    variant: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    source: str | None = None
    descriptions: tuple[Path, ...] = ()


def get_content_size(path: Path) -> int:
    """Returns the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def compute_sha256(path: Path, *following: Path) -> str:
    """Returns the SHA-256 of a file, followed by others if there are any, as hexadecimal digits.

    That of a folder is the SHA-256 of the names, sizes and contents of its files, sorted by name.

    Raises:
        OSError: a file cannot be read, or there is no such file or folder.
    """
    path.stat()
    digest = hashlib.sha256()
    files = [path, *following] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\n{file.stat().st_size}\n".encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
