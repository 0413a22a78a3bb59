"""Weights in memory to files and folders, whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.weights.keras.files import write_hdf5
from mobilenet_jax.weights.layout import architecture, size
from mobilenet_jax.weights.safetensors import write_safetensors
from mobilenet_jax.weights.weights import Weights, check_metadata, check_tensors
from mobilenet_jax.weights.weights_file import Metadata

_UNKNOWN = Metadata()
_FOLDER = {"variables", "metadata", "_CHECKPOINT_METADATA", "commit_success.txt"}  # what Orbax makes of one
_OVERHEAD = 2 << 20  # bytes; the groups of HDF5 take 1.3 MB


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
        variables: `{"params": ..., "batch_stats": ...}`; what else is in it is passed over.
        metadata: what the tensors do not tell.
        force: whether to overwrite weights that are there.

    Raises:
        WeightsError: the variables are not the model's; there is something under that name; it cannot be written.
    """
    kept = {name: variables[name] for name in ("params", "batch_stats") if name in variables}
    tensors = {name: np.asarray(value) for name, value in flatten_dict(kept, sep=".").items()}
    found = architecture({name: value.shape for name, value in tensors.items()})
    given = (model.alpha, model.head, model.num_classes if model.head else 0)
    if found[:3] != given:
        raise WeightsError(f"alpha, head and classes of the variables are {found[:3]}, of the model {given}")
    check_tensors({name: (value.shape, str(value.dtype)) for name, value in tensors.items()}, found.shapes())
    write_weights(
        path, Weights("memory", "", found, {name: tensors[name] for name in found.shapes()}, metadata), force=force
    )


def write_weights(path: str | Path, weights: Weights, *, force: bool = False) -> None:
    """The same for weights that were read."""
    path = Path(path)
    write, found = _writer(path), weights.architecture
    head = {"head": found.head, "num_classes": str(found.num_classes)} if found.head else {}
    texts = {"alpha": str(found.alpha), **head, **weights.metadata.to_json()}
    check_metadata(found, weights.metadata)
    check_destination(path, force=force)
    needed, free = sum(map(size, found.shapes().values())) + _OVERHEAD, shutil.disk_usage(path.parent).free
    if free < needed:  # found out here it is a line; found out while writing, Orbax says it in hundreds
        raise WeightsError(
            f"cannot write {path}: the disk has {free / 1e6:.1f} MB free, and {needed / 1e6:.1f} are needed"
        )
    with _placed(path) as unfinished:
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
    if path.is_dir() != (not path.suffix) or (path.is_dir() and {p.name for p in path.iterdir()} != _FOLDER):
        raise WeightsError(f"{path} exists and holds no weights: choose another name")
    if not force:
        raise WeightsError(f"{path} exists: choose another name, or overwrite it with --force (force=True)")


@contextlib.contextmanager
def _placed(path: Path) -> Iterator[Path]:
    """A name to write to; what was written gets its real name when it is whole, and goes away if it is not."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            unfinished = Path(folder) / path.name
            yield unfinished
            before = Path(folder) / "before"
            if path.is_dir():  # a folder cannot be replaced in one go
                os.replace(path, before)
            try:
                os.replace(unfinished, path)
            except OSError:
                if before.exists():
                    os.replace(before, path)
                raise
    except Exception as error:
        line = getattr(error, "strerror", None) or str(error).partition("\n")[0][:200]
        raise WeightsError(f"cannot write {path} ({line}): make room or choose another folder") from error


def _writer(path: Path) -> Callable[[Path, Mapping[str, np.ndarray], Mapping[str, str]], None]:
    if path.name.endswith(".safetensors"):
        return write_safetensors
    if path.name.endswith(".weights.h5"):
        return write_hdf5
    if not path.suffix:
        from mobilenet_jax.weights.orbax import write_folder  # Orbax takes its time to import

        return write_folder
    raise WeightsError(
        f"{path}: the name says what is written: NAME.safetensors, NAME.weights.h5 (Keras 3), or, without a suffix, "
        "a folder (Orbax)"
    )
