"""Reads weights files and folders of any format."""

import contextlib
import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.weights import hub, orbax
from mobilenet_jax.weights.keras.files import open_archive, open_hdf5
from mobilenet_jax.weights.keras.names import map_to_keras_3
from mobilenet_jax.weights.layout import (
    Architecture,
    Shape,
    get_byte_count,
    get_transposed_axes,
    transpose,
    transpose_shape,
)
from mobilenet_jax.weights.orbax import CheckpointName
from mobilenet_jax.weights.safetensors import open_safetensors
from mobilenet_jax.weights.weights import Weights, check_tensors
from mobilenet_jax.weights.weights_file import WeightsFile, compute_sha256, get_content_size

_Format = Literal["hdf5", "zip", "safetensors", "workdir", "orbax"]

_SLACK = 64 << 20  # bytes that the tensors of a compressed file may have beyond the size of the file
_MAX_FILE_RATIO = 8  # file to tensors: an optimizer's tensors make it 3, HDF5's groups 4 for the smallest model
_EPSILON = 1e-3  # batch normalization takes the square root of variance + epsilon


def load_pretrained(
    path: str | Path, alpha: float | None = None, *, checkpoint: CheckpointName = "best", allow_nonfinite: bool = False
) -> tuple[MobileNet, dict[str, Any]]:
    """Loads a MobileNet v1, with its classifier if the file holds one.

    Args:
        path: a Keras file (HDF5 of Keras 1 or 2, `.weights.h5` or `.keras` of Keras 3), a file or folder that
            `save_pretrained` wrote, the workdir of a training run, or `hf://owner/name[@revision]`, the
            `model.safetensors` of a repository on the Hugging Face Hub. The format is detected from the content.
        alpha: the expected width multiplier; None accepts any.
        checkpoint: the checkpoint of a workdir, `"best"` or `"latest"`.
        allow_nonfinite: whether tensors may contain NaN and infinity.

    Returns:
        The model, and its variables `{"params": ..., "batch_stats": ...}` as float32 arrays. Apply it with
        `model.apply(variables, images, train=False)`; `read_weights` also returns the input range of the images.

    Raises:
        WeightsError: the file is damaged or cannot be downloaded, or a tensor is missing, unknown, or of another shape
            or type.
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
    """Reads weights and their metadata.

    Args:
        path: see `load_pretrained`.
        alpha: see `load_pretrained`.
        head: whether to read the classifier. Without it, any classifier is accepted, even one that `MobileNet` does
            not have.
        checkpoint: see `load_pretrained`.
        allow_nonfinite: see `load_pretrained`.

    Raises:
        WeightsError: see `load_pretrained`.
    """
    with _open_checked(path, head, checkpoint) as (file, architecture):
        if alpha not in (None, architecture.alpha):
            raise WeightsError(f"it holds a MobileNet of alpha {architecture.alpha}, but the model has alpha {alpha}")
        tensors = {name: _read_tensor(file, name, allow_nonfinite) for name in architecture.compute_shapes()}
        digest = compute_sha256(file.path)
    metadata = dataclasses.replace(
        file.metadata,
        classes=file.metadata.classes if head else None,
        source=make_printable(file.source or Path(path).name + (f" ({file.checkpoint})" if file.checkpoint else "")),
        source_sha256=digest,
    )
    return Weights(file.format, file.checkpoint or f"sha256:{digest}", architecture, tensors, metadata)


def _read_tensor(file: WeightsFile, name: str, allow_nonfinite: bool) -> np.ndarray:
    tensor = file.tensors[name]
    value = tensor.read()
    if not allow_nonfinite and not np.isfinite(value).all():
        raise WeightsError(
            f"tensor {tensor.name} contains NaN or infinity (mobilenet-jax convert --allow-nonfinite accepts them)"
        )
    if name.endswith("_bn.var") and (value <= -_EPSILON).any():
        raise WeightsError(f"tensor {tensor.name} contains a negative variance, {value.min():.3g}")
    return transpose(name, value) if file.keras_layout else value


class TensorMapping(NamedTuple):
    """The conversion of one tensor: its names in the source and the target, its shape in the target, its transform."""

    source: str
    target: str
    shape: Shape
    transform: str


def map_tensors(
    path: str | Path, *, to_keras: bool, checkpoint: CheckpointName = "best", head: bool = True
) -> list[TensorMapping]:
    """Returns the conversion of each tensor of a file to another format. Only names and shapes are read.

    Args:
        path: see `load_pretrained`.
        to_keras: whether the other format is Keras 3's, not one of this project's.
        checkpoint: see `load_pretrained`.
        head: whether the classifier is converted.

    Raises:
        WeightsError: see `load_pretrained`.
    """
    with _open_checked(path, head, checkpoint) as (file, architecture):
        shapes = architecture.compute_shapes()
        names = map_to_keras_3(shapes) if to_keras else {name: name for name in shapes}
        mappings = []
        for name, shape in shapes.items():
            axes = get_transposed_axes(name) if file.keras_layout != to_keras else None
            mappings.append(
                TensorMapping(
                    make_printable(file.tensors[name].name),
                    names[name],
                    transpose_shape(name, shape) if to_keras else shape,
                    f"transpose {axes}" if axes else "",
                )
            )
        return mappings


def make_printable(text: str) -> str:
    """Replaces characters that cannot be printed, or that could move a terminal's cursor, by `?`."""
    return "".join(c if c.isprintable() else "?" for c in text)


@contextlib.contextmanager
def _open_checked(
    path: str | Path, head: bool, checkpoint: CheckpointName
) -> Iterator[tuple[WeightsFile, Architecture]]:
    """Opens a weights file and validates it. Errors while it is open start with its path, in one printable line."""
    try:
        local, source = hub.download(str(path)) if hub.is_hub_location(path) else (Path(path), None)
        with _open(local, head, checkpoint) as file:
            yield dataclasses.replace(file, source=source), _infer_architecture(file, head)
    except (WeightsError, OSError) as error:
        raise WeightsError(make_printable(f"{path}: {error}")) from error


def _open(path: Path, head: bool, checkpoint: CheckpointName) -> AbstractContextManager[WeightsFile]:
    match _detect_format(path):
        case "hdf5":
            return open_hdf5(path, head)
        case "zip":
            return open_archive(path, head)
        case "safetensors":
            return open_safetensors(path)
        case "workdir":
            return orbax.open_workdir(path, checkpoint)
        case "orbax":
            return orbax.open_folder(path)


def is_workdir(path: str | Path) -> bool:
    """Returns whether a path is the workdir of a training run."""
    path = Path(path)
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def _detect_format(path: Path) -> _Format:
    if path.is_dir():
        if is_workdir(path):
            return "workdir"
        if (path / "variables").is_dir() and (path / "metadata").is_dir():
            return "orbax"
        files = sorted(file.name for file in path.glob("*.safetensors"))
        hint = f" (name the file in it, {files[0]})" if files else ""
        raise WeightsError(f"a folder, but neither the workdir of a run nor weights that Orbax wrote{hint}")
    if not path.exists():
        raise WeightsError("no such file or folder")
    if not path.is_file():
        raise WeightsError("not a regular file")
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
        raise WeightsError("refusing to load a Python pickle: it can execute arbitrary code")
    raise WeightsError("not a weights file: neither HDF5 nor a .keras archive nor safetensors")


def _infer_architecture(file: WeightsFile, head: bool) -> Architecture:
    """Returns the MobileNet that a file holds, after validating names, shapes, types and sizes; reads no values."""
    shapes = {name: _lay_out(file, name, tensor.shape) for name, tensor in file.tensors.items()}
    architecture = Architecture.from_shapes(shapes, head=head)
    expected = {name: _lay_out(file, name, shape) for name, shape in architecture.compute_shapes().items()}
    check_tensors(
        {name: (tensor.shape, tensor.dtype) for name, tensor in file.tensors.items() if head or name in expected},
        expected,
    )
    total, file_size = sum(map(get_byte_count, expected.values())), get_content_size(file.path)
    if total > file_size + _SLACK:
        raise WeightsError(f"its tensors claim {total:,} bytes, but the file has {file_size:,}")
    if file_size > _MAX_FILE_RATIO * total + _SLACK and head:
        raise WeightsError(f"only {total:,} of its {file_size:,} bytes belong to a MobileNet")
    if file.alpha is not None and file.alpha != str(architecture.alpha):
        raise WeightsError(
            f"its metadata record alpha {file.alpha[:80]}, but its tensors have alpha {architecture.alpha}"
        )
    if head:
        file.metadata.check_class_count(architecture.num_classes)
    return architecture


def _lay_out(file: WeightsFile, name: str, shape: Shape) -> Shape:
    """Converts a shape from the layout of the file to Flax's, or back."""
    return transpose_shape(name, shape) if file.keras_layout else shape
