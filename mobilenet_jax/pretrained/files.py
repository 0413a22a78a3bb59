"""Weights in files: `load_pretrained` and `save_pretrained`, and all that stands between a file and its use."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mobilenet_jax.model import MobileNet
from mobilenet_jax.pretrained import keras_files, keras_names, safetensors_file
from mobilenet_jax.pretrained.source import Metadata, Source, sha256
from mobilenet_jax.pretrained.tensors import (
    Architecture,
    Shape,
    WeightsError,
    architecture,
    axes,
    size,
    transposed,
)

Checkpoint = Literal["best", "latest"]

_SHOWN = 4  # so many mismatches are named
_SLACK = 64 << 20  # bytes that a packed file's tensors may hold more than the file
_UNKNOWN = Metadata()
_EPSILON = 1e-3  # batch normalisation takes the root of variance + epsilon


@dataclass(frozen=True)
class Weights:
    """Weights in memory.

    Attributes:
        kind: what sort of file they were read from.
        architecture: which MobileNet they are for.
        tensors: float32 arrays by name (`params.conv1.kernel`), in the order of the layers.
        metadata: what the tensors do not tell.
    """

    kind: str
    architecture: Architecture
    tensors: dict[str, np.ndarray]
    metadata: Metadata

    @property
    def variables(self) -> dict[str, Any]:
        """The tensors as `MobileNet.apply` takes them."""
        return unflatten_dict(self.tensors, sep=".")

    def without_head(self) -> "Weights":
        """The same without the classifier."""
        bare = self.architecture.without_head()
        tensors = {name: self.tensors[name] for name in bare.shapes()}
        metadata = dataclasses.replace(self.metadata, classes=None)
        return dataclasses.replace(self, architecture=bare, tensors=tensors, metadata=metadata)


class Mapped(NamedTuple):
    """How a tensor goes from one file to another: its name there and here, its shape in the target, its transform."""

    source: str
    target: str
    shape: Shape
    transform: str


def load_pretrained(
    path: str | Path, alpha: float | None = None, *, checkpoint: Checkpoint = "best", allow_nonfinite: bool = False
) -> tuple[MobileNet, dict[str, Any]]:
    """Loads a MobileNet v1, with its classifier if the file holds one.

    Args:
        path: a Keras file (HDF5 of Keras 1 or 2, `.weights.h5` or `.keras` of Keras 3), a file or folder that
            `save_pretrained` wrote, or the workdir of a training run. What it is, is seen from its content.
        alpha: the width it is to have; None takes whatever width it has.
        checkpoint: which checkpoint of a workdir, `"best"` or `"latest"`.
        allow_nonfinite: whether NaN and infinity may stand in a tensor.

    Returns:
        The model, and its variables `{"params": ..., "batch_stats": ...}` as float32 arrays:
        `model.apply(variables, images, train=False)`. `read_weights` tells how images are to be scaled.

    Raises:
        WeightsError: the file is damaged, or a tensor is missing, unknown, or of another shape or type.
    """
    weights = read_weights(path, checkpoint=checkpoint, allow_nonfinite=allow_nonfinite)
    found = weights.architecture.alpha
    if alpha not in (None, found):
        raise WeightsError(f"{path} holds MobileNet of alpha {found}; the model has alpha {alpha}")
    return weights.architecture.model(), weights.variables


def read_weights(path: str | Path, *, checkpoint: Checkpoint = "best", allow_nonfinite: bool = False) -> Weights:
    """Reads weights and what is known of them; arguments and errors as for `load_pretrained`."""
    path = Path(path)
    with _opened(path, checkpoint) as source:
        found = _checked(source, _bytes(path))
        tensors = {}
        for name in found.shapes():
            value = source.entries[name].read()
            if not allow_nonfinite and not np.isfinite(value).all():
                raise WeightsError(
                    f"tensor {source.entries[name].name} holds NaN or infinity (--allow-nonfinite takes it)"
                )
            if name.endswith("_bn.var") and (value <= -_EPSILON).any():
                raise WeightsError(f"tensor {source.entries[name].name} holds a variance of {value.min():.3g}")
            tensors[name] = value.transpose(axes(name) or range(value.ndim)) if source.keras_layout else value
    metadata = dataclasses.replace(source.metadata, source=path.name, source_sha256=sha256(path))
    return Weights(source.kind, found, tensors, metadata)


def mapping(
    path: str | Path, target: str | Path, *, checkpoint: Checkpoint = "best", head: bool = True
) -> list[Mapped]:
    """How each tensor of a file would be named and laid out in another; nothing but names and shapes is read.

    Args:
        path: see `load_pretrained`.
        target: the file or folder that would be written, see `save_pretrained`.
        checkpoint: see `load_pretrained`.
        head: whether the classifier comes along.

    Raises:
        WeightsError: see `load_pretrained`.
    """
    to_keras = _writer(Path(target)) is keras_files.write_hdf5
    with _opened(Path(path), checkpoint) as source:
        found = _checked(source, _bytes(Path(path)))
        shapes = (found if head else found.without_head()).shapes()
        names = keras_names.to_keras_3(shapes) if to_keras else {name: name for name in shapes}
        rows = []
        for name, shape in shapes.items():
            moved = f"transpose {axes(name)}" if axes(name) and source.keras_layout != to_keras else ""
            rows.append(Mapped(source.entries[name].name, names[name], _laid_out(name, shape, to_keras), moved))
        return rows


def save_pretrained(
    path: str | Path,
    model: MobileNet,
    variables: Mapping[str, Any],
    metadata: Metadata = _UNKNOWN,
    *,
    force: bool = False,
) -> None:
    """Writes a model's variables, whole or not at all.

    Args:
        path: `NAME.safetensors`; `NAME.weights.h5`, which Keras 3 loads into its own `MobileNet`; or a name without a
            suffix, for a folder that Orbax reads.
        model: the model.
        variables: `{"params": ..., "batch_stats": ...}`.
        metadata: what the tensors do not tell.
        force: whether to overwrite weights that are there.

    Raises:
        WeightsError: the variables are not the model's; there is something under that name; it cannot be written.
    """
    tensors = {name: np.asarray(value) for name, value in flatten_dict(dict(variables), sep=".").items()}
    found = architecture({name: value.shape for name, value in tensors.items()})
    if (found.alpha, found.head) != (model.alpha, model.head):
        raise WeightsError(f"the variables are of alpha {found.alpha} and head {found.head!r}, the model is {model}")
    _check_tensors({name: (value.shape, str(value.dtype)) for name, value in tensors.items()}, found.shapes())
    write_weights(path, Weights("", found, {name: tensors[name] for name in found.shapes()}, metadata), force=force)


def write_weights(path: str | Path, weights: Weights, *, force: bool = False) -> None:
    """The same for weights that were read."""
    path = Path(path)
    write, found = _writer(path), weights.architecture
    head = {"head": found.head, "num_classes": str(found.num_classes)} if found.head else {}
    texts = {"alpha": str(found.alpha), **head, **weights.metadata.to_json()}
    with _placed(path, force) as unfinished:
        write(unfinished, weights.tensors, texts)


def check_destination(path: str | Path, *, force: bool) -> None:
    """Refuses a destination before there is work to lose.

    Raises:
        WeightsError: its name says no format, its folder is not there, or there is something under that name.
    """
    path = Path(path)
    _writer(path)
    if not path.parent.is_dir():
        raise WeightsError(f"no such folder: {path.parent}")
    if not os.path.lexists(path):
        return
    if not force:
        raise WeightsError(f"{path} exists: choose another name, or overwrite it with --force")
    if _kind(path) != "folder" if path.is_dir() else not path.is_file():
        raise WeightsError(f"{path} exists and holds no weights: choose another name")


@contextlib.contextmanager
def _placed(path: Path, force: bool) -> Iterator[Path]:
    """A name to write to; what was written gets its real name when it is whole, and goes away if it is not."""
    check_destination(path, force=force)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            unfinished = Path(folder) / path.name
            yield unfinished
            if path.is_dir():
                os.replace(path, Path(folder) / "before")
            os.replace(unfinished, path)
    except Exception as error:
        line = getattr(error, "strerror", None) or str(error).partition("\n")[0][:200]
        raise WeightsError(f"cannot write {path} ({line}): make room or choose another folder") from error


def _writer(path: Path) -> Callable[[Path, Mapping[str, np.ndarray], Mapping[str, str]], None]:
    if path.name.endswith(".safetensors"):
        return safetensors_file.write_safetensors
    if path.name.endswith(".weights.h5"):
        return keras_files.write_hdf5
    if not path.suffix:
        from mobilenet_jax.pretrained.orbax_folder import write_folder  # Orbax takes its time to import

        return write_folder
    raise WeightsError(
        f"{path}: the name says what is written: NAME.safetensors, NAME.weights.h5 (Keras 3), or, without a suffix, "
        "a folder (Orbax)"
    )


@contextlib.contextmanager
def _opened(path: Path, checkpoint: Checkpoint) -> Iterator[Source]:
    """A file of weights of whatever kind. Errors while it is open name it, on one printable line."""
    try:
        with _reader(path, checkpoint) as source:
            yield source
    except (WeightsError, OSError) as error:
        line = "".join(c if c.isprintable() else "?" for c in str(error))
        raise WeightsError(f"{path}: {line}") from error


def _reader(path: Path, checkpoint: Checkpoint) -> AbstractContextManager[Source]:
    kind = _kind(path)
    if kind == "hdf5":
        return keras_files.open_hdf5(path)
    if kind == "zip":
        return keras_files.open_archive(path)
    if kind == "safetensors":
        return safetensors_file.open_safetensors(path)
    from mobilenet_jax.pretrained import orbax_folder  # Orbax takes its time to import

    if kind == "workdir":
        return orbax_folder.open_workdir(path, checkpoint)
    return orbax_folder.open_folder(path)


def _kind(path: Path) -> str:
    """What a file or folder is, by its content."""
    if path.is_dir():
        if (path / "config.json").is_file() and (path / "checkpoints").is_dir():
            return "workdir"
        if (path / "variables").is_dir() and (path / "metadata").is_dir():
            return "folder"
        raise WeightsError("a folder, but neither the workdir of a run nor weights that Orbax keeps")
    if not path.exists():
        raise WeightsError("no such file of weights")
    if not path.is_file():
        raise WeightsError("no regular file")
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if start.startswith(b"PK\3\4"):
        return "zip"
    if start[8:] == b"{":
        return "safetensors"
    if not start:
        raise WeightsError("an empty file")
    if start[0] == 0x80 and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        raise WeightsError("a Python pickle, which can run any code when it is loaded; none is")
    raise WeightsError("no file of weights: neither HDF5 nor a .keras archive nor safetensors")


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _laid_out(name: str, shape: Shape, keras: bool) -> Shape:
    """A shape in Keras's layout or in Flax's, given in the other or the same."""
    return transposed(name, shape) if keras and len(shape) == 4 else shape


def _checked(source: Source, file_size: int) -> Architecture:
    """Whether the tensors of a file are those of a MobileNet, and of which one; none has been read yet."""
    shapes = {name: _laid_out(name, entry.shape, source.keras_layout) for name, entry in source.entries.items()}
    found = architecture(shapes)
    expected = {name: _laid_out(name, shape, source.keras_layout) for name, shape in found.shapes().items()}
    _check_tensors({name: (entry.shape, entry.dtype) for name, entry in source.entries.items()}, expected)
    total = sum(map(size, expected.values()))
    if total > file_size + _SLACK:
        raise WeightsError(f"its tensors claim {total:,} bytes, and the file has {file_size:,}")
    classes = source.metadata.classes
    if source.stated.get("alpha", str(found.alpha)) != str(found.alpha):
        raise WeightsError(f"it says alpha {source.stated['alpha'][:80]}, and its tensors are of alpha {found.alpha}")
    if classes is not None and len(classes) != found.num_classes:
        raise WeightsError(f"it names {len(classes)} classes, and its last layer has {found.num_classes}")
    return found


def _check_tensors(found: Mapping[str, tuple[Shape, str]], expected: Mapping[str, Shape]) -> None:
    def refuse(what: str, names: Iterable[str]) -> None:
        listed = sorted(names)
        if listed:
            more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
            raise WeightsError(f"{what}: {', '.join(name[:120] for name in listed[:_SHOWN])}{more}")

    refuse("tensors missing", expected.keys() - found.keys())
    refuse("tensors MobileNet does not have", found.keys() - expected.keys())
    refuse(
        "tensors not of type float32",
        (f"{name} is {dtype}" for name, (_, dtype) in found.items() if dtype != "float32"),
    )
    refuse(
        "tensors of another shape",
        (f"{name} is {found[name][0]}, not {shape}" for name, shape in expected.items() if found[name][0] != shape),
    )
