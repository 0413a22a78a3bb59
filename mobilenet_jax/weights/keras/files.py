"""Weights files of Keras: the HDF5 of Keras 1 and 2, and `.weights.h5` and `.keras` of Keras 3.

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
from typing import Any

import h5py
import numpy as np

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.damage import PICKLE, report_damage
from mobilenet_jax.weights.keras.description import check_description
from mobilenet_jax.weights.keras.names import map_from_keras_2, map_from_keras_3, map_to_keras_3
from mobilenet_jax.weights.layout import from_flax, parse_variant
from mobilenet_jax.weights.metadata import Metadata, check_texts
from mobilenet_jax.weights.weights_file import FileTensor, WeightsFile
from mobilenet_jax.weights.worker import WorkerFile, open_in_worker

SUFFIX = ".weights.h5"  # Keras 3 requires it for the files that `write_hdf5` writes

_WORKER = Path(__file__).with_name("hdf5_worker.py")
_WEIGHTS_MEMBER, _DESCRIPTION_MEMBER = "model.weights.h5", "config.json"
_MAX_DESCRIPTION = 8 << 20  # bytes; Keras writes 90 kB
_MAX_EXPANSION = 4  # a member's size over its size in the archive; trained weights come to 1.1
_MAX_DIRECTORY = 1 << 16  # bytes; Keras's archives have three members
_ATTRIBUTE = "mobilenet_jax"  # holds this project's metadata; Keras ignores it
_PUBLIC_NAME = re.compile(r"mobilenet_\d_\d_(\d{2,4})_tf(_no_top)?\.h5")  # of the ImageNet weights


@contextlib.contextmanager
def open_hdf5(path: Path, head: bool) -> Iterator[WeightsFile]:
    """Opens a Keras HDF5 file.

    Args:
        path: the file.
        head: whether its classifier will be read, so that its description is validated too.

    Raises:
        WeightsError: it is damaged, holds links, or was written for another order of axes.
    """
    with open_in_worker(_WORKER, path) as file:
        image_size = _check_model(file.attributes.get("model_config"), head)
        # The names of Keras's public files are the only record of their image size.
        if image_size is None and (public := _PUBLIC_NAME.fullmatch(path.name)):
            image_size = f"[{public[1]}, {public[1]}]"
        yield _make_weights_file("Keras HDF5", path, file, image_size)


@contextlib.contextmanager
def open_archive(path: Path, head: bool) -> Iterator[WeightsFile]:
    """Opens a `.keras` archive.

    Args:
        path: the file.
        head: see `open_hdf5`.

    Raises:
        WeightsError: see `open_hdf5`; or the archive has members outside its folder, or members that expand too far.
    """
    _check_directory(path)
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / _WEIGHTS_MEMBER
        with report_damage():
            description = _unpack(path, unpacked)
        image_size = _check_model(description, head)
        with open_in_worker(_WORKER, unpacked) as file:
            yield _make_weights_file("Keras 3 archive", path, file, image_size)


def _check_directory(path: Path) -> None:
    """Refuses pickles, and a list of members larger than Keras ever writes: zipfile reads it as a whole."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 17)))
        tail = file.read()
    if b"/data.pkl" in tail:  # only PyTorch's archives have it; they are Zip64
        raise WeightsError(PICKLE)
    end = tail.rfind(b"PK\5\6")  # the end of central directory record
    size = int.from_bytes(tail[end + 12 : end + 16], "little")
    is_zip64 = b"PK\6\7" in tail[max(0, end - 20) : end]
    if end < 0 or size > _MAX_DIRECTORY or is_zip64:
        raise WeightsError("damaged, or an archive that Keras did not write")


def _unpack(path: Path, destination: Path) -> str | None:
    """Unpacks the weights of a `.keras` archive, and returns the description of its model if there is one."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        for member in members.values():
            _check_member(member)
        if _WEIGHTS_MEMBER not in members:
            raise WeightsError(f"not a .keras file: a zip archive without {_WEIGHTS_MEMBER}")
        with archive.open(_WEIGHTS_MEMBER) as packed, destination.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
        description = members.get(_DESCRIPTION_MEMBER)
        if description is None:
            return None
        if description.file_size > _MAX_DESCRIPTION:
            raise WeightsError(f"the description of its model has more than {_MAX_DESCRIPTION:,} bytes")
        return archive.read(description).decode()


def _check_member(member: zipfile.ZipInfo) -> None:
    name = member.filename
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in name:
        raise WeightsError(f"its member {name[:80]!r} would leave the folder it is unpacked to")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others are not expanded piece by piece
        raise WeightsError(f"its member {name[:80]!r} has a compression that Keras does not use")
    if member.file_size > _MAX_EXPANSION * member.compress_size + (1 << 20):
        raise WeightsError(
            f"its member {name[:80]!r} expands from {member.compress_size:,} to {member.file_size:,} bytes"
        )


def _make_weights_file(format_name: str, path: Path, file: WorkerFile, image_size: str | None) -> WeightsFile:
    if file.attributes.get("backend") == "theano":
        raise WeightsError("written by Keras on Theano, whose kernels are flipped; save it from TensorFlow")
    texts = _parse_texts(file.attributes.get(_ATTRIBUTE, "{}"))
    if image_size:
        texts.setdefault("image_size", image_size)
    return WeightsFile(
        format_name,
        path,
        _list_tensors(file),
        "keras",
        metadata=Metadata.from_texts(texts),
        alpha=texts.get("alpha"),
        variant=parse_variant(texts),
    )


def _list_tensors(file: WorkerFile) -> dict[str, FileTensor]:
    if any(re.search(r"(^|/)vars/\d+$", path) for path in file.datasets):
        names = map_from_keras_3({path: dataset["layer"] for path, dataset in file.datasets.items()})
    else:
        names = map_from_keras_2({path: dataset["position"] for path, dataset in file.datasets.items()})
    tensors: dict[str, FileTensor] = {}
    for path, dataset in file.datasets.items():
        name, shape = names.get(path, path), tuple(dataset["shape"])
        if name in tensors:
            raise WeightsError(f"it holds tensor {name} twice: {tensors[name].name} and {path}")
        tensors[name] = FileTensor(path, shape, dataset["dtype"], functools.partial(file.read, path, shape))
    return tensors


def _check_model(description: str | None, head: bool) -> str | None:
    """Checks the model that a file describes, if it does, and returns the size of its images as JSON."""
    return check_description(description, head=head) if description else None


def _parse_texts(attribute: str) -> dict[str, str]:
    try:
        texts: Any = json.loads(attribute)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"its attribute {_ATTRIBUTE} is not JSON") from error
    return check_texts(texts)


def write_hdf5(path: Path, tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
    """Writes a `.weights.h5` that Keras 3 loads into its `MobileNet`, or into one with this project's head after it.

    Args:
        path: the file.
        tensors: by their names of `layout.py`, in Flax's layout.
        texts: metadata, stored as JSON in an attribute that Keras ignores.
    """
    names = map_to_keras_3(tensors)
    with h5py.File(path, "w") as file:
        file.attrs[_ATTRIBUTE] = json.dumps(dict(texts))
        for name, value in tensors.items():
            dataset = file.create_dataset(names[name], data=from_flax(name, value, "keras"))
            dataset.parent.attrs["name"] = name.split(".")[1]  # Keras 3 stores the name of the layer there
