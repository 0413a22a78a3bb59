"""Writes weights to files and folders, completely or not at all."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from input_pipeline.atomic_files import get_free_bytes, remove_leftovers, replace_atomically
from input_pipeline.errors import get_first_line
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.weights.formats import Format, check_expressible, choose_format
from mobilenet_jax.weights.keras.files import write_hdf5
from mobilenet_jax.weights.layout import Architecture, get_byte_count
from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.orbax import write_folder
from mobilenet_jax.weights.pytorch.files import FILES as LIBRARY_FILES
from mobilenet_jax.weights.pytorch.files import WEIGHTS_NAME, write_library_folder
from mobilenet_jax.weights.pytorch.names import Library
from mobilenet_jax.weights.safetensors import write_safetensors
from mobilenet_jax.weights.weights import Weights, check_tensors

_UNKNOWN = Metadata()
# The files in a folder of each format, all of which `force` overwrites.
_FOLDER_FILES: dict[Format, set[str]] = {
    "orbax": {"variables", "metadata", "_CHECKPOINT_METADATA", "commit_success.txt"},
    "timm": LIBRARY_FILES,
    "transformers": LIBRARY_FILES,
}
_WRITERS: dict[Format, Callable[[Path, Mapping[str, np.ndarray], Mapping[str, str]], None]] = {
    "safetensors": write_safetensors,
    "keras": write_hdf5,
    "orbax": write_folder,
}
_OVERHEAD = 2 << 20  # bytes; the groups of HDF5 take 1.3 MB


def save_pretrained(
    path: str | Path,
    model: MobileNet,
    variables: Mapping[str, Any],
    metadata: Metadata = _UNKNOWN,
    *,
    library: Library | None = None,
    force: bool = False,
) -> None:
    """Writes the variables of a model, completely or not at all.

    Args:
        path: `NAME.safetensors`; `NAME.weights.h5`, which Keras 3 loads into its own `MobileNet`; or a name without a
            suffix, for a folder that Orbax, or `library`, reads.
        model: the model.
        variables: `{"params": ..., "batch_stats": ...}`; other collections are ignored.
        metadata: the facts that the tensors do not show.
        library: `"timm"` or `"transformers"`, for a folder that this library loads; None for the other formats.
        force: whether to overwrite existing weights.

    Raises:
        WeightsError: the variables do not belong to the model, the format cannot express it, the destination exists,
            or it cannot be written.
    """
    collections = {name: variables[name] for name in ("params", "batch_stats") if name in variables}
    tensors = {name: np.asarray(value) for name, value in flatten_dict(collections, sep=".").items()}
    architecture = Architecture.from_shapes({name: value.shape for name, value in tensors.items()})
    architecture = architecture._replace(batch_norm_epsilon=model.batch_norm_epsilon, padding=model.padding)
    expected = (model.alpha, model.head, model.num_classes if model.head else 0, model.conv_head)
    found = (*architecture[:3], architecture.conv_head)
    if found != expected:
        raise WeightsError(
            f"the variables have (alpha, head, classes, conv_head) {found}, but the model has {expected}"
        )
    shapes = architecture.compute_shapes()
    check_tensors({name: (value.shape, str(value.dtype)) for name, value in tensors.items()}, shapes)
    ordered = {name: tensors[name] for name in shapes}
    write_weights(path, Weights("memory", "", architecture, ordered, metadata), library=library, force=force)


def write_weights(path: str | Path, weights: Weights, *, library: Library | None = None, force: bool = False) -> None:
    """Writes weights that `read_weights` returned.

    Args:
        path: see `save_pretrained`.
        weights: the weights, with their metadata.
        library: see `save_pretrained`.
        force: see `save_pretrained`.

    Raises:
        WeightsError: the format cannot express the model, the destination exists, or it cannot be written.
    """
    path = Path(path)
    target, architecture = choose_format(path, library), weights.architecture
    weights.metadata.check_class_count(architecture.num_classes)
    check_destination(path, library=library, force=force)
    check_expressible(architecture, weights.metadata, target)
    _check_free_space(path, architecture)
    try:
        remove_leftovers(Path(os.path.realpath(path)).parent)
        with replace_atomically(path) as unfinished:
            _write(unfinished, weights, target)
    except Exception as error:  # each library has types of its own for a disk that fails
        reason = getattr(error, "strerror", None) or get_first_line(error)
        raise WeightsError(f"cannot write {path} ({reason}): free some space or choose another folder") from error


def _write(path: Path, weights: Weights, target: Format) -> None:
    if target in ("timm", "transformers"):
        write_library_folder(path, weights, target)
        return
    architecture = weights.architecture
    head = {"head": architecture.head, "num_classes": str(architecture.num_classes)} if architecture.head else {}
    variant = {name: str(value) for name, value in architecture.variant.items()}
    texts = {"alpha": str(architecture.alpha), **head, **variant, **weights.metadata.to_texts()}
    _WRITERS[target](path, weights.tensors, texts)


def check_destination(path: str | Path, *, library: Library | None = None, force: bool) -> None:
    """Validates a destination. Commands call it before they start work that an error would lose.

    Raises:
        WeightsError: the name has no known suffix, its folder does not exist, or something exists under that name.
    """
    path = Path(path)
    target = choose_format(path, library)
    if not path.parent.is_dir():
        raise WeightsError(f"no such folder: {path.parent}")
    if not os.path.lexists(path):
        return
    files = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if path.is_dir() != (target in _FOLDER_FILES) or (path.is_dir() and not files & {"variables", WEIGHTS_NAME}):
        raise WeightsError(f"{path} exists and does not hold weights: choose another name")
    if path.is_dir() and (others := files - _FOLDER_FILES[target]):
        raise WeightsError(f"{path} exists and holds {min(others)}, which would be lost: choose another name")
    if not force:
        raise WeightsError(f"{path} exists: choose another name, or overwrite it with --force (in Python, force=True)")


def _check_free_space(path: Path, architecture: Architecture) -> None:
    """Raises if the disk is too full. Orbax would report a disk that fills while it writes in hundreds of lines."""
    needed = sum(map(get_byte_count, architecture.compute_shapes().values())) + _OVERHEAD
    free = get_free_bytes(path.parent)
    if free < needed:
        raise WeightsError(
            f"cannot write {path}: {needed / 1e6:.1f} MB are needed, but the disk has only {free / 1e6:.1f} MB free"
        )
