"""Weights that Orbax keeps: a folder of the variables alone, or a checkpoint in the workdir of a training run.

Orbax writes them. They are read by TensorStore, on which Orbax is built, an array at a time: so nothing is read that
was not looked at, and what is damaged is told of in a line.
"""

import contextlib
import functools
import json
import math
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax.traverse_util import unflatten_dict

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.weights_file import Entry, Metadata, Source

_MAX_FILES = 10_000  # in a folder; Orbax makes some twenty
_MAX_JSON = 64 << 20  # bytes; the history of a run has 400 an epoch
_one_at_a_time = threading.Lock()  # Orbax does not write two folders at once

CheckpointName = Literal["best", "latest"]
BEST_MODE = "max"  # the best checkpoint is the one with the highest score


def get_score(metrics: dict[str, float]) -> float:
    """Returns the score of a checkpoint, from the metrics that were saved with it."""
    return metrics["score"]


def find_checkpoint(folder: Path, name: CheckpointName) -> Path | None:
    """Returns the folder of a complete checkpoint, or None if there is none. Changes nothing in `folder`.

    Args:
        folder: the folder `checkpoints` of a workdir.
        name: `"best"` for the checkpoint with the highest score, `"latest"` for the one with the most steps.
    """
    options = ocp.CheckpointManagerOptions(create=False, best_fn=get_score, best_mode=BEST_MODE)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        step = manager.best_step() if name == "best" else manager.latest_step()
    return None if step is None else folder / str(step)


def check_arrays(folder: Path) -> None:
    """Reads every array of an Orbax folder and drops its values; called before Orbax restores a checkpoint.

    Orbax 0.12.5 to 0.12.8 restores arrays concurrently in a private event loop and closes that loop at the first error,
    while other reads are pending. Each of those then prints "Event loop is closed" with a stack trace: 583 lines for
    one damaged checkpoint. TensorStore, which Orbax reads with, reports the same damage as a plain exception.

    Args:
        folder: the folder of one item of a checkpoint, such as `state`.

    Raises:
        WeightsError: the folder does not exist, holds no arrays, or an array cannot be read.
    """
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder")
    try:
        arrays = _open_arrays(folder)
        for name, array in arrays.items():  # one after another: the memory of one, and no slower than all at once
            _read(name, array)
    except Exception as error:  # TensorStore raises almost any type for damaged files
        raise WeightsError(f"{folder} is damaged ({_get_first_line(error)})") from error
    if not arrays:
        raise WeightsError(f"{folder} holds no arrays")


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[Source]:
    """Opens a folder that `write_folder` wrote.

    Raises:
        WeightsError: it is damaged.
    """
    with _damage_told():
        _check_files(path)
        stated = _json(path / "metadata" / "metadata")
        entries = _entries(path / "variables")
        metadata = Metadata.from_json(stated)
        yield Source("Orbax folder", path.name, path, entries, keras_layout=False, stated=stated, metadata=metadata)


@contextlib.contextmanager
def open_workdir(path: Path, checkpoint: CheckpointName) -> Iterator[Source]:
    """Opens a checkpoint of a training run: the variables that were evaluated, without the optimizer's.

    Where the run kept a moving average of the parameters, that is what is read in their place.

    Args:
        path: the workdir.
        checkpoint: which of its checkpoints.

    Raises:
        WeightsError: it is damaged, or there is no whole checkpoint yet.
    """
    with _damage_told():
        _check_files(path / "checkpoints")
        step = find_checkpoint(path / "checkpoints", checkpoint)
        if step is None:
            raise WeightsError("no whole checkpoint yet")
        history = _json(step / "history" / "metadata")
        size = _json(path / "config.json")["data"]["image_size"]
        metadata = Metadata((size, size), tuple(history["input_scaling"]), tuple(history["classes"]))
        entries = _variables(_entries(step / "state"))
        identity = f"{checkpoint} checkpoint, step {step.name}"
        yield Source("checkpoint of a run", identity, step, entries, keras_layout=False, stated={}, metadata=metadata)


def _variables(state: dict[str, Entry]) -> dict[str, Entry]:
    averaged = {name.replace("ema.", "params.", 1): e for name, e in state.items() if name.startswith("ema.")}
    params = averaged or {name: e for name, e in state.items() if name.startswith("params.")}
    return params | {name: e for name, e in state.items() if name.startswith("batch_stats.")}


def write_folder(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes the folder: `variables`, as `MobileNet.apply` takes them, and `metadata`, a JSON object of texts."""
    variables = unflatten_dict(dict(tensors), sep=".")
    args = ocp.args.Composite(variables=ocp.args.PyTreeSave(variables), metadata=ocp.args.JsonSave(dict(metadata)))
    with _one_at_a_time, ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=args)


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    """Storage fails on damaged folders with almost any error."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"damaged, or no weights ({_get_first_line(error)})") from error


def _get_first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__


def _check_files(folder: Path) -> None:
    """Refuses links, which could lead anywhere, and what is no file: reading a pipe never ends."""
    for i, path in enumerate(folder.rglob("*")):
        if i > _MAX_FILES:
            raise WeightsError(f"it holds more than {_MAX_FILES} files")
        kind = path.lstat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise WeightsError(f"{path.relative_to(folder)} in it is a link, or no file")


def _json(path: Path) -> Any:
    if path.stat().st_size > _MAX_JSON:
        raise WeightsError(f"{path.name} in it is too large")
    return json.loads(path.read_text())


def _entries(folder: Path) -> dict[str, Entry]:
    return {name: _entry(name, array) for name, array in _open_arrays(folder).items()}


def _open_arrays(folder: Path) -> dict[str, ts.TensorStore]:
    """Opens the arrays of an Orbax folder: a database whose keys are `NAME/.zarray` and `NAME/CHUNK`."""
    database = {"driver": "ocdbt", "base": folder.absolute().as_uri()}
    keys = [key.decode() for key in ts.KvStore.open(database).result().list().result()]
    names = [key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")]
    specs = [{"driver": "zarr", "kvstore": {**database, "path": f"{name}/"}} for name in names]
    futures = [ts.open(spec, open=True, read=True) for spec in specs]
    return {name: future.result() for name, future in zip(names, futures, strict=True)}


def _read(name: str, array: ts.TensorStore) -> np.ndarray:
    chunk: Any = array.chunk_layout.read_chunk.shape  # reading a part of a chunk takes the memory of all of it
    if math.prod(chunk) > max(2 * math.prod(array.shape), 1 << 18):
        raise WeightsError(f"tensor {name} of {array.shape} is cut into chunks of {chunk}")
    return np.array(array.read().result())


def _entry(name: str, array: ts.TensorStore) -> Entry:
    return Entry(name, tuple(array.shape), str(array.dtype.numpy_dtype), functools.partial(_read, name, array))
