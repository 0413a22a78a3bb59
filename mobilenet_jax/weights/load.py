"""Files and folders of any kind to weights in memory."""

import contextlib
import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.weights.keras.files import open_archive, open_hdf5
from mobilenet_jax.weights.keras.names import to_keras_3
from mobilenet_jax.weights.layout import Architecture, Shape, architecture, axes, size, transposed
from mobilenet_jax.weights.orbax import CheckpointName
from mobilenet_jax.weights.safetensors import open_safetensors
from mobilenet_jax.weights.weights import Weights, check_metadata, check_tensors
from mobilenet_jax.weights.weights_file import Source, content_size, sha256

Checkpoint = CheckpointName  # until evaluation imports the new name

_SLACK = 64 << 20  # bytes that a packed file's tensors may hold more than the file
_MOST = 8  # times its tensors a file may have; an optimizer's make it three, HDF5's groups four for the least
_EPSILON = 1e-3  # batch normalization takes the root of variance + epsilon


def load_pretrained(
    path: str | Path, alpha: float | None = None, *, checkpoint: CheckpointName = "best", allow_nonfinite: bool = False
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
    weights = read_weights(path, alpha, checkpoint=checkpoint, allow_nonfinite=allow_nonfinite)
    return weights.architecture.build_model(), weights.variables


def read_weights(
    path: str | Path,
    alpha: float | None = None,
    *,
    head: bool = True,
    checkpoint: CheckpointName = "best",
    allow_nonfinite: bool = False,
) -> Weights:
    """Reads weights and what is known of them.

    Args:
        path: see `load_pretrained`; so are the other arguments, and the errors.
        alpha: the width.
        head: whether to read the classifier. Without it, any classifier will do, also one this project does not have.
        checkpoint: of a workdir.
        allow_nonfinite: whether to take NaN and infinity.
    """
    path = Path(path)
    with _opened(path, head, checkpoint) as (source, found):
        if alpha not in (None, found.alpha):
            raise WeightsError(f"it holds MobileNet of alpha {found.alpha}; the model has alpha {alpha}")
        tensors = {}
        for name in found.shapes():
            value = source.entries[name].read()
            title = f"tensor {source.entries[name].name}"
            if not allow_nonfinite and not np.isfinite(value).all():
                raise WeightsError(f"{title} holds NaN or infinity (mobilenet-jax convert --allow-nonfinite takes it)")
            if name.endswith("_bn.var") and (value <= -_EPSILON).any():
                raise WeightsError(f"{title} holds a variance of {value.min():.3g}")
            tensors[name] = value.transpose(axes(name) or range(value.ndim)) if source.keras_layout else value
    name = path.name if source.path == path else f"{path.name} ({source.identity})"
    metadata = dataclasses.replace(
        source.metadata,
        classes=source.metadata.classes if head else None,
        source=printable(name),
        source_sha256=sha256(source.path),
    )
    return Weights(source.format, source.identity, found, tensors, metadata)


def printable(text: str) -> str:
    """The text with `?` for what could move a terminal's cursor, or could not be printed at all."""
    return "".join(c if c.isprintable() else "?" for c in text)


class Mapped(NamedTuple):
    """How a tensor goes from one file to another: its name there and here, its shape in the target, its transform."""

    source: str
    target: str
    shape: Shape
    transform: str


def map_tensors(
    path: str | Path, *, to_keras: bool, checkpoint: CheckpointName = "best", head: bool = True
) -> list[Mapped]:
    """How each tensor of a file would be named and laid out in another; nothing but names and shapes is read.

    Args:
        path: see `load_pretrained`.
        to_keras: whether the other is a Keras 3 file, and not one of this project's.
        checkpoint: see `load_pretrained`.
        head: whether the classifier comes along.

    Raises:
        WeightsError: see `load_pretrained`.
    """
    with _opened(Path(path), head, checkpoint) as (source, found):
        shapes = found.shapes()
        names = to_keras_3(shapes) if to_keras else {name: name for name in shapes}
        rows = []
        for name, shape in shapes.items():
            moved = f"transpose {axes(name)}" if axes(name) and source.keras_layout != to_keras else ""
            rows.append(
                Mapped(printable(source.entries[name].name), names[name], _laid_out(name, shape, to_keras), moved)
            )
        return rows


@contextlib.contextmanager
def _opened(path: Path, head: bool, checkpoint: CheckpointName) -> Iterator[tuple[Source, Architecture]]:
    """A file of weights of whatever kind, checked. Errors while it is open name it, on one printable line."""
    try:
        with _reader(path, head, checkpoint) as source:
            yield source, _checked(source, head)
    except (WeightsError, OSError) as error:
        raise WeightsError(printable(f"{path}: {error}")) from error


def _reader(path: Path, head: bool, checkpoint: CheckpointName) -> AbstractContextManager[Source]:
    kind = kind_of(path)
    if kind == "hdf5":
        return open_hdf5(path, head)
    if kind == "zip":
        return open_archive(path, head)
    if kind == "safetensors":
        return open_safetensors(path)

    from mobilenet_jax.weights import orbax  # Orbax takes its time to import

    if kind == "workdir":
        return orbax.open_workdir(path, checkpoint)
    return orbax.open_folder(path)


def kind_of(path: Path) -> str:
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


def _laid_out(name: str, shape: Shape, keras: bool) -> Shape:
    """A shape in Keras's layout or in Flax's, given in the other or the same."""
    return transposed(name, shape) if keras and len(shape) == 4 else shape


def _checked(source: Source, head: bool) -> Architecture:
    """Which MobileNet the tensors of a file are those of, if they are; none has been read yet."""
    shapes = {name: _laid_out(name, entry.shape, source.keras_layout) for name, entry in source.entries.items()}
    found = architecture(shapes, head=head)
    expected = {name: _laid_out(name, shape, source.keras_layout) for name, shape in found.shapes().items()}
    here = {name: (e.shape, e.dtype) for name, e in source.entries.items() if head or name in expected}
    check_tensors(here, expected)
    total, file_size = sum(map(size, expected.values())), content_size(source.path)
    if total > file_size + _SLACK:
        raise WeightsError(f"its tensors claim {total:,} bytes, and the file has {file_size:,}")
    if file_size > _MOST * total + _SLACK and head:
        raise WeightsError(f"it has {file_size:,} bytes, and {total:,} of them are a MobileNet's")
    if source.stated.get("alpha", str(found.alpha)) != str(found.alpha):
        raise WeightsError(f"it says alpha {source.stated['alpha'][:80]}, and its tensors are of alpha {found.alpha}")
    if head:
        check_metadata(found, source.metadata)
    return found
