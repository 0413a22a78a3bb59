"""Safetensors files: this project's own, and those of timm and Transformers.

In the project's own, each tensor has its name of `layout.py` and Flax's layout. The names tell the formats apart.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.damage import report_damage
from mobilenet_jax.weights.layout import parse_variant
from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.pytorch.configs import read_description
from mobilenet_jax.weights.pytorch.names import Library, detect_library, is_counter, map_from_library
from mobilenet_jax.weights.weights_file import FileTensor, WeightsFile

_MAX_HEADER = 8 << 20  # bytes; ours have 15 kB, and more with thousands of classes


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[WeightsFile]:
    """Opens a safetensors file.

    Raises:
        WeightsError: it is damaged.
    """
    _check_header_size(path)
    with contextlib.ExitStack() as stack:
        with report_damage():
            file = stack.enter_context(safetensors.safe_open(path, framework="numpy"))
            tensors = {name: _make_tensor(file, name) for name in file.offset_keys()}
            texts = file.metadata() or {}
        library = detect_library(tensors)
        if library:
            yield _open_library_file(path, tensors, library)
        else:
            metadata = Metadata.from_texts(texts)
            yield WeightsFile("safetensors", path, tensors, "flax", metadata, texts.get("alpha"), parse_variant(texts))


def _open_library_file(path: Path, tensors: dict[str, FileTensor], library: Library) -> WeightsFile:
    """Renames the tensors of timm or Transformers, and reads the JSON files beside them."""
    names = map_from_library(library)
    renamed = {names.get(name, name): tensor for name, tensor in tensors.items() if not is_counter(name)}
    if len(renamed) < sum(not is_counter(name) for name in tensors):
        raise WeightsError("tensors of the same name, with and without a prefix")
    description = read_description(path.parent, library, {name: tensor.shape for name, tensor in renamed.items()})
    metadata = description.metadata
    if "params.predictions.kernel" not in renamed:  # the names of a classifier that was left out may be there
        metadata = dataclasses.replace(metadata, classes=None)
    return WeightsFile(
        f"safetensors of {library}",
        path,
        renamed,
        "pytorch",
        metadata,
        description.alpha,
        description.variant,
        descriptions=description.files,
    )


def _check_header_size(path: Path) -> None:
    """Refuses a header that is larger than the file, or than any header of a MobileNet, before it is parsed."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > min(_MAX_HEADER, path.stat().st_size - 8):
        raise WeightsError(f"damaged: it claims a header of {size:,} bytes")


def _make_tensor(file: Any, name: str) -> FileTensor:
    part = file.get_slice(name)
    dtype = {"F32": "float32"}.get(part.get_dtype(), part.get_dtype())
    return FileTensor(name, tuple(part.get_shape()), dtype, functools.partial(_read, file, name))


@report_damage()
def _read(file: Any, name: str) -> np.ndarray:
    return file.get_tensor(name)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
    """Writes a file that any program can read that knows safetensors. The same weights always give the same bytes.

    Args:
        path: the file.
        tensors: by their names of `layout.py`, in Flax's layout.
        texts: metadata for the header.
    """
    content = save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, dict(texts))
    path.write_bytes(_sort_metadata(content))


def _sort_metadata(content: bytes) -> bytes:
    """Sorts the metadata in the header: the library orders them at random, which would change the hash of the file."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + content[end:]
