"""This project's own file of weights: safetensors, each tensor under its name here, in Flax's layout."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.weights_file import Entry, Metadata, Source

_MAX_HEADER = 8 << 20  # bytes; ours have 15 kB, and more where there are thousands of classes


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Source]:
    """Opens a safetensors file.

    Raises:
        WeightsError: it is damaged.
    """
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > min(_MAX_HEADER, path.stat().st_size - 8):
        raise WeightsError(f"damaged: it claims a header of {header:,} bytes")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            entries = {}
            for name in file.offset_keys():
                part = file.get_slice(name)
                read = functools.partial(file.get_tensor, name)
                dtype = {"F32": "float32"}.get(part.get_dtype(), part.get_dtype())
                entries[name] = Entry(name, tuple(part.get_shape()), dtype, read)
            stated = file.metadata() or {}
            yield Source(
                "safetensors",
                path.name,
                path,
                entries,
                keras_layout=False,
                stated=stated,
                metadata=Metadata.from_json(stated),
            )
    except safetensors.SafetensorError as error:
        raise WeightsError(f"damaged, or no file of weights ({str(error)[:200]})") from error


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes the file; any program that knows safetensors reads it, metadata included."""
    path.write_bytes(save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, dict(metadata)))
