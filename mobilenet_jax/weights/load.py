"""Reads weights files and folders of any format."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from input_pipeline.errors import make_printable
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.weights import hub, orbax
from mobilenet_jax.weights.damage import PICKLE
from mobilenet_jax.weights.formats import Format, check_expressible, get_layout, map_names
from mobilenet_jax.weights.keras.files import open_archive, open_hdf5
from mobilenet_jax.weights.layout import (
    Architecture,
    Shape,
    from_flax_shape,
    get_byte_count,
    get_transposed_axes,
    to_flax,
    to_flax_shape,
)
from mobilenet_jax.weights.orbax import CheckpointName
from mobilenet_jax.weights.pytorch.files import WEIGHTS_NAME
from mobilenet_jax.weights.safetensors import open_safetensors
from mobilenet_jax.weights.tensorflow.checkpoint import INDEX_SUFFIX, open_checkpoint
from mobilenet_jax.weights.weights import Weights, check_tensors
from mobilenet_jax.weights.weights_file import WeightsFile, compute_sha256, get_content_size

_Kind = Literal["hdf5", "zip", "safetensors", "folder", "checkpoint", "workdir", "orbax"]

_SLACK = 64 << 20  # bytes that the tensors of a compressed file may have beyond the size of the file
_MAX_FILE_RATIO = 8  # file to tensors: an optimizer's tensors make it 3, HDF5's groups 4 for the smallest model


def names_weights(location: str | None) -> bool:
    """Returns whether the setting `init.weights` names weights; the command line passes None as text."""
    return str(location).lower() not in ("none", "")


def load_pretrained(
    path: str | Path, *, checkpoint: CheckpointName = "best", allow_nonfinite: bool = False
) -> tuple[MobileNet, dict[str, Any]]:
    """Loads a MobileNet v1, with its classifier if the file holds one.

    Args:
        path: a Keras file (HDF5 of Keras 1 or 2, `.weights.h5` or `.keras` of Keras 3), a safetensors file, a folder
            of timm, Transformers or Orbax, the prefix of a TensorFlow checkpoint, the workdir of a training run, or
            `hf://owner/name[@revision]`, the `model.safetensors` of a repository on the Hugging Face Hub. The format is
            detected from the content.
        checkpoint: the checkpoint of a workdir, `"best"` or `"latest"`.
        allow_nonfinite: whether tensors may contain NaN and infinity.

    Returns:
        The model, and its variables `{"params": ..., "batch_stats": ...}` as float32 arrays. Apply it with
        `model.apply(variables, images, train=False)`; `read_weights` also returns the input range of the images.

    Raises:
        WeightsError: the file is damaged or cannot be downloaded, or a tensor is missing, unknown, or of another shape
            or type.
    """
    weights = read_weights(path, checkpoint=checkpoint, allow_nonfinite=allow_nonfinite)
    return weights.architecture.build_model(), weights.variables


def read_weights(
    path: str | Path,
    *,
    head: bool = True,
    checkpoint: CheckpointName = "best",
    allow_nonfinite: bool = False,
) -> Weights:
    """Reads weights and their metadata.

    Args:
        path: see `load_pretrained`.
        head: whether to read the classifier. Without it, any classifier is accepted, even one that `MobileNet` does
            not have.
        checkpoint: see `load_pretrained`.
        allow_nonfinite: see `load_pretrained`.

    Raises:
        WeightsError: see `load_pretrained`.
    """
    try:
        return _read_weights(path, head, checkpoint, allow_nonfinite)
    except WeightsError:
        if hub.is_hub_location(str(path)) or not is_workdir(path):
            raise
        # A run that is being trained may have deleted the checkpoint: its next one is read.
        return _read_weights(path, head, checkpoint, allow_nonfinite)


def _read_weights(path: str | Path, head: bool, checkpoint: CheckpointName, allow_nonfinite: bool) -> Weights:
    with _open_checked(path, head, checkpoint) as (file, architecture):
        tensors = {
            name: _read_tensor(file, name, architecture.batch_norm_epsilon, allow_nonfinite)
            for name in architecture.compute_shapes()
        }
        digest = compute_sha256(file.path, *file.descriptions)
    metadata = dataclasses.replace(
        file.metadata,
        classes=file.metadata.classes if head else None,
        source=make_printable(
            file.source or hub.strip_folder(path) + (f" ({file.checkpoint})" if file.checkpoint else "")
        ),
        source_sha256=digest,
    )
    return Weights(file.format, file.checkpoint or f"sha256:{digest}", architecture, tensors, metadata)


def _read_tensor(file: WeightsFile, name: str, epsilon: float, allow_nonfinite: bool) -> np.ndarray:
    tensor = file.tensors[name]
    value = tensor.read()
    if not allow_nonfinite and not np.isfinite(value).all():
        raise WeightsError(
            f"tensor {tensor.name} contains NaN or infinity (mobilenet-jax convert --allow-nonfinite accepts them)"
        )
    if name.endswith("_bn.var") and (value <= -epsilon).any():
        raise WeightsError(f"tensor {tensor.name} contains a negative variance, {value.min():.3g}")
    return to_flax(name, value, file.layout)


class TensorMapping(NamedTuple):
    """The conversion of one tensor: its names in the source and the target, its shape in the target, its transform."""

    source: str
    target: str
    shape: Shape
    transform: str


def map_tensors(
    path: str | Path, target: Format, *, checkpoint: CheckpointName = "best", head: bool = True
) -> list[TensorMapping]:
    """Returns the conversion of each tensor of a file to another format. Only names and shapes are read.

    Args:
        path: see `load_pretrained`.
        target: the other format.
        checkpoint: see `load_pretrained`.
        head: whether the classifier is converted.

    Raises:
        WeightsError: see `load_pretrained`; or the other format cannot express the model.
    """
    with _open_checked(path, head, checkpoint) as (file, architecture):
        check_expressible(architecture, file.metadata, target)
        shapes, layout = architecture.compute_shapes(), get_layout(target)
        names = map_names(shapes, target)
        mappings = []
        for name, shape in shapes.items():
            source, written = file.tensors[name], from_flax_shape(name, shape, layout)
            axes = list(range(len(shape)))
            from_source = get_transposed_axes(name, file.layout) or axes
            to_target = np.argsort(get_transposed_axes(name, layout) or axes)
            order = [from_source[i] for i in to_target]
            transform = f"transpose {tuple(order)}" if order != axes else ""
            if layout == "pytorch" and name == "params.conv_preds.kernel":
                written = written[:2]  # a linear layer there
            mappings.append(TensorMapping(make_printable(source.name), names[name], written, transform))
        return mappings


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
        raise WeightsError(f"{path}: {error}") from error


def _open(path: Path, head: bool, checkpoint: CheckpointName) -> AbstractContextManager[WeightsFile]:
    kind = _detect_kind(path)
    if checkpoint == "latest" and kind != "workdir":
        raise WeightsError("not the workdir of a run, so it has no latest checkpoint")
    match kind:
        case "hdf5":
            return open_hdf5(path, head)
        case "zip":
            return open_archive(path, head)
        case "safetensors":
            return open_safetensors(path)
        case "folder":
            return open_safetensors(path / WEIGHTS_NAME)
        case "checkpoint":
            return open_checkpoint(path.with_name(path.name.removesuffix(INDEX_SUFFIX)))
        case "workdir":
            return orbax.open_workdir(path, checkpoint)
        case "orbax":
            return orbax.open_folder(path)


def is_workdir(path: str | Path) -> bool:
    """Returns whether a path is the workdir of a training run."""
    # Unlike pathlib's methods, these raise nothing if the path is too long or not readable.
    return os.path.isfile(os.path.join(path, "config.json")) and os.path.isdir(os.path.join(path, orbax.CHECKPOINTS))


def _detect_kind(path: Path) -> _Kind:
    if path.is_dir():
        if is_workdir(path):
            return "workdir"
        if (path / "variables").is_dir() and (path / "metadata").is_dir():
            return "orbax"
        if (path / WEIGHTS_NAME).is_file():
            return "folder"
        if (path / "pytorch_model.bin").is_file():
            raise WeightsError(f"it holds pytorch_model.bin, but no {WEIGHTS_NAME}: {PICKLE}")
        files = sorted(file.name for file in path.glob("*.safetensors"))
        hint = f" (name the file in it, {files[0]})" if files else ""
        raise WeightsError(
            f"a folder, but neither the workdir of a run nor weights of Orbax, timm or Transformers{hint}"
        )
    if path.name.endswith(INDEX_SUFFIX) or path.with_name(path.name + INDEX_SUFFIX).is_file():
        return "checkpoint"
    if not path.exists():
        is_url = re.match(r"\w\w+:/", str(path))  # a Path has one slash of the two
        hint = "; of URLs, only hf://OWNER/NAME[@REVISION] is supported: download the file first" if is_url else ""
        raise WeightsError(f"no such file or folder{hint}")
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
        raise WeightsError(PICKLE)
    raise WeightsError("not a weights file: expected HDF5, a .keras archive, safetensors or a TensorFlow checkpoint")


def _infer_architecture(file: WeightsFile, head: bool) -> Architecture:
    """Returns the MobileNet that a file holds, after validating names, shapes, types and sizes; reads no values."""
    shapes = {name: to_flax_shape(name, tensor.shape, file.layout) for name, tensor in file.tensors.items()}
    architecture = Architecture.from_shapes(shapes, head=head)._replace(**file.variant)
    shapes = architecture.compute_shapes()
    expected = {name: from_flax_shape(name, shape, file.layout) for name, shape in shapes.items()}
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
        origin = "config.json beside it records" if file.descriptions else "its metadata record"
        raise WeightsError(f"{origin} alpha {file.alpha[:80]}, but its tensors have alpha {architecture.alpha}")
    if head:
        file.metadata.check_class_count(architecture.num_classes)
    return architecture
