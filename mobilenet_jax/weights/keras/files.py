"""Keras's files of weights: the HDF5 of Keras 1 and 2, and `.weights.h5` and `.keras` of Keras 3.

A `.keras` file is a zip archive that holds a `.weights.h5` and a JSON description of the model.
"""

import contextlib
import functools
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.keras import hdf5
from mobilenet_jax.weights.keras.description import check_description
from mobilenet_jax.weights.keras.names import from_keras_2, from_keras_3, to_keras_3
from mobilenet_jax.weights.layout import axes
from mobilenet_jax.weights.weights_file import Entry, Metadata, Source

_MAX_DESCRIPTION = 8 << 20  # bytes; Keras writes 90 kB
_MAX_EXPANSION = 4  # a member's size over its size in the archive; trained weights come to 1.1
_MAX_DIRECTORY = 1 << 16  # bytes; Keras's archives have three members
_METADATA = "mobilenet_jax"  # the attribute this project leaves in a file; Keras passes it over


@contextlib.contextmanager
def open_hdf5(path: Path, head: bool) -> Iterator[Source]:
    """Opens a Keras HDF5 file; `head` says whether its classifier is wanted.

    Raises:
        WeightsError: it is damaged, holds links, or was written for another order of axes.
    """
    with hdf5.opened(path) as file:
        # Keras's public files tell the size of the images in their name only.
        named = re.fullmatch(r"mobilenet_\d_\d_(\d{2,4})_tf(_no_top)?\.h5", path.name)
        image_size = f"[{named[1]}, {named[1]}]" if named else None
        described = _described_size(file.attributes.get("model_config"), head)
        yield _source("Keras HDF5", path, file, described or image_size)


@contextlib.contextmanager
def open_archive(path: Path, head: bool) -> Iterator[Source]:
    """Opens a `.keras` archive; `head` says whether its classifier is wanted.

    Raises:
        WeightsError: see `open_hdf5`; or the archive holds names that leave it, or members that expand without end.
    """
    _check_directory(path)
    with _damage_told(), zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        members = {member.filename: member for member in archive.infolist()}
        for name, member in members.items():
            if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in name:
                raise WeightsError(f"its member {name[:80]!r} would leave the folder it is unpacked to")
            if member.file_size > _MAX_EXPANSION * member.compress_size + (1 << 20):
                size = f"from {member.compress_size:,} to {member.file_size:,} bytes"
                raise WeightsError(f"its member {name[:80]!r} expands {size}")
        if "model.weights.h5" not in members:
            raise WeightsError("a zip archive without model.weights.h5: no .keras file")
        described = None
        if "config.json" in members and members["config.json"].file_size <= _MAX_DESCRIPTION:
            described = _described_size(archive.read("config.json").decode(), head)
        unpacked = Path(folder) / "model.weights.h5"
        with archive.open("model.weights.h5") as packed, unpacked.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
        with hdf5.opened(unpacked) as file:
            yield _source("Keras 3 archive", path, file, described)


def _check_directory(path: Path) -> None:
    """Refuses an archive whose list of members, which zipfile reads whole, is larger than Keras's ever is."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 17)))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    size = int.from_bytes(tail[end + 12 : end + 16], "little")
    if end < 0 or size > _MAX_DIRECTORY or b"PK\6\7" in tail[max(0, end - 20) : end]:
        raise WeightsError("damaged, or an archive of more than a model")


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    """Zip archives fail, when they are damaged, with almost any error."""
    try:
        yield
    except (WeightsError, OSError):  # such as a disk without room to unpack it
        raise
    except Exception as error:
        line = str(error).partition("\n")[0][:200] or type(error).__name__
        raise WeightsError(f"damaged, or no file of weights ({line})") from error


def _source(kind: str, path: Path, file: hdf5.File, image_size: str | None) -> Source:
    if file.attributes.get("backend") == "theano":
        raise WeightsError("written by Keras on Theano, whose kernels are flipped; save it from TensorFlow")

    if any(re.search(r"(^|/)vars/\d+$", path) for path in file.datasets):
        names = from_keras_3({path: found["layer"] for path, found in file.datasets.items()})
    else:
        names = from_keras_2(file.datasets)
    entries: dict[str, Entry] = {}
    for tensor, found in file.datasets.items():
        name, shape = names.get(tensor, tensor), tuple(found["shape"])
        if name in entries:
            raise WeightsError(f"tensor {name} stands in it twice: {entries[name].name} and {tensor}")
        entries[name] = Entry(tensor, shape, found["dtype"], functools.partial(file.read, tensor, shape))

    stated = _stated(file.attributes.get(_METADATA, "{}"))
    if image_size and "image_size" not in stated:
        stated["image_size"] = image_size
    return Source(kind, path.name, path, entries, keras_layout=True, stated=stated, metadata=Metadata.from_json(stated))


def _described_size(description: str | None, head: bool) -> str | None:
    return check_description(description, head=head) if description else None


def _stated(text: str) -> dict[str, str]:
    try:
        stated = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"its attribute {_METADATA} is no JSON") from error
    if not isinstance(stated, dict) or not all(isinstance(value, str) for value in stated.values()):
        raise WeightsError(f"its attribute {_METADATA} is no JSON object of texts")
    return stated


def write_hdf5(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a `.weights.h5` that Keras 3 loads into its `MobileNet`, or one with this project's head after it.

    Args:
        path: the file, which is not there.
        tensors: by their names here, in Flax's layout.
        metadata: kept as JSON in an attribute that Keras passes over.
    """
    names = to_keras_3(tensors)
    with h5py.File(path, "w") as file:
        file.attrs[_METADATA] = json.dumps(dict(metadata))
        for name, value in tensors.items():
            dataset = file.create_dataset(names[name], data=value.transpose(axes(name) or range(value.ndim)))
            dataset.parent.attrs["name"] = name.split(".")[1]
