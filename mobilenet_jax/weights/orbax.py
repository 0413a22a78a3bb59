"""Orbax folders: the variables alone, or a checkpoint in the workdir of a training run.

Orbax writes them. They are read with TensorStore, on which Orbax is built, one array at a time: an array's shape and
chunks are validated before its values are read, and damage is reported in one line.
"""

import contextlib
import functools
import json
import math
import os
import stat
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax.traverse_util import unflatten_dict

from input_pipeline.atomic_files import write_atomically
from input_pipeline.errors import get_first_line
from input_pipeline.preprocessing import Preprocessing
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.damage import report_damage
from mobilenet_jax.weights.layout import VARIANT, parse_variant
from mobilenet_jax.weights.metadata import Metadata, check_texts, parse_input_scaling
from mobilenet_jax.weights.weights_file import FileTensor, WeightsFile

CheckpointName = Literal["best", "latest"]
BEST_MODE = "max"  # the best checkpoint is the one with the highest score
REESTIMATED = "reestimated"  # item of a checkpoint: the statistics that its state was evaluated with
CHECKSUMS = "checksums"  # item of a checkpoint: CRC-32 by `ITEM/NAME`, for arrays and JSON; not in earlier versions

CHECKPOINTS = "checkpoints"  # the folder in a workdir
_MAX_FILES = 10_000  # the limit of a folder; Orbax writes about twenty
_MAX_JSON = 64 << 20  # bytes; the history of a run has 400 per epoch
_MIN_CHUNK_LIMIT = 1 << 18  # values; small arrays may be cut into chunks larger than themselves
_COMPRESSORS = (None, "zstd")  # Orbax uses zstd; others, such as blosc, expand a chunk before its size is known
_NO_CHECKSUM = -1  # stands for an array that the checksums do not list
_write_lock = threading.Lock()  # Orbax cannot write two folders at once


def get_score(metrics: dict[str, float]) -> float:
    """Returns the score of a checkpoint, from the metrics that were saved with it."""
    return metrics["score"]


def find_checkpoint(folder: Path, name: CheckpointName) -> Path | None:
    """Returns the folder of a complete checkpoint, or None if there is none. Changes nothing in `folder`.

    Args:
        folder: the folder `checkpoints` of a workdir.
        name: `"best"` for the checkpoint with the highest score, `"latest"` for the one with the most steps.

    Raises:
        WeightsError: the best one is unknown, since a score is damaged or has changed.
    """
    if name == "best" and (damaged := find_damaged_scores(folder)):
        checkpoint, error = next(iter(damaged.items()))
        raise WeightsError(
            f"the score of {checkpoint} is damaged ({get_first_line(error)}): start the run again, which repairs it"
        )
    try:
        return _find_checkpoint(folder, name)
    except FileNotFoundError:  # a run that is being trained has deleted a checkpoint between listing and reading it
        return _find_checkpoint(folder, name)


def _find_checkpoint(folder: Path, name: CheckpointName) -> Path | None:
    options = ocp.CheckpointManagerOptions(create=False, best_fn=get_score, best_mode=BEST_MODE)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        step = manager.best_step() if name == "best" else manager.latest_step()
    return None if step is None else folder / str(step)


def describe_checkpoint(name: CheckpointName, folder: Path) -> str:
    """Returns the identity of the weights of a checkpoint, such as `best checkpoint, step 799`."""
    return f"{name} checkpoint, step {folder.name}"


def parse_checkpoint_name(identity: str) -> CheckpointName | None:
    """Returns the name in an identity of `describe_checkpoint`, None if it identifies other weights."""
    names: tuple[CheckpointName, ...] = get_args(CheckpointName)
    return next((name for name in names if identity.startswith(f"{name} checkpoint, ")), None)


def find_damaged_scores(folder: Path) -> dict[Path, Exception]:
    """Returns the checkpoints whose score is damaged or has changed since it was written, with the errors.

    A run that is being trained deletes checkpoints meanwhile; those that lack files are left out.
    """
    damaged: dict[Path, Exception] = {}
    for path in sorted(folder.glob("*/metrics/metrics")):
        checkpoint = path.parents[1]
        if not checkpoint.name.isdigit():  # it is being written
            continue
        try:
            check_json(checkpoint, read_checksums(checkpoint), "metrics", _read_json(path))
        except (OSError, ValueError, RecursionError, WeightsError) as error:
            if path.exists():
                damaged[checkpoint] = error
    return damaged


def rewrite_score(checkpoint: Path, compute_score: Callable[[dict[str, Any]], float]) -> None:
    """Replaces the score of a checkpoint, and its checksum, by the one that its history gives.

    Args:
        checkpoint: its folder.
        compute_score: computes the score from the history, as JSON values.

    Raises:
        OSError, ValueError, WeightsError: the history or the checksums are missing or damaged.
    """
    checksums, history = read_checksums(checkpoint), _read_json(checkpoint / "history" / "metadata")
    check_json(checkpoint, checksums, "history", history)
    metrics = {"score": compute_score(history)}
    write_atomically(checkpoint / "metrics" / "metrics", json.dumps(metrics))
    if checksums is not None:
        checksums["metrics"] = compute_json_checksum(metrics)
        write_atomically(checkpoint / CHECKSUMS / "metadata", json.dumps(checksums))


def compute_checksums(item: str, tree: Any) -> dict[str, int]:
    """Computes the checksums of the NumPy arrays in an item of a checkpoint.

    Neither Orbax nor TensorStore notices all changes of single bits on a disk.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    keys = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return {f"{item}/{key}": _compute_checksum(leaf) for key, (_, leaf) in zip(keys, leaves, strict=True)}


def compute_json_checksum(value: Any) -> int:
    """Computes the checksum of a JSON value."""
    return zlib.crc32(json.dumps(value).encode())


def read_checksums(checkpoint: Path) -> dict[str, int] | None:
    """Returns the checksums of a checkpoint, or None if an earlier version wrote it, without any.

    Raises:
        ValueError, WeightsError: they are damaged.
    """
    if not (checkpoint / CHECKSUMS).exists():
        return None
    checksums: dict[str, int] = _read_json(checkpoint / CHECKSUMS / "metadata")
    if not isinstance(checksums, dict):
        raise WeightsError(f"{CHECKSUMS} holds no object")
    return checksums


def check_json(checkpoint: Path, checksums: dict[str, int] | None, item: str, value: Any) -> None:
    """Compares a JSON value of a checkpoint with its checksum, if there is one.

    Raises:
        WeightsError: they differ.
    """
    if checksums is not None and checksums.get(item) != compute_json_checksum(value):
        raise WeightsError(f"{checkpoint / item} has changed since it was written")


def check_arrays(folder: Path, checksums: dict[str, int] | None = None) -> None:
    """Reads every array of an Orbax folder and drops its values. Call it before Orbax restores a checkpoint.

    Orbax 0.12.5 to 0.12.8 restores arrays concurrently in a private event loop and closes that loop at the first error,
    while other reads are pending. Each of those then prints "Event loop is closed" with a stack trace: 583 lines for
    one damaged checkpoint. TensorStore, which Orbax reads with, reports the same damage as a plain exception.

    Args:
        folder: the folder of one item of a checkpoint, such as `state`.
        checksums: those of the checkpoint; None compares none.

    Raises:
        WeightsError: the folder does not exist, holds no arrays, or an array cannot be read, is missing, or differs
            from its checksum.
    """
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder")
    try:
        tensors = _list_tensors(folder, checksums)
        for tensor in tensors.values():  # one after another: the memory of one, and no slower than all at once
            tensor.read()
    except Exception as error:  # TensorStore raises almost any type for damaged files
        raise WeightsError(f"{folder} is damaged ({get_first_line(error)})") from error
    if not tensors:
        raise WeightsError(f"{folder} holds no arrays")
    if checksums is not None and (
        missing := {key for key in checksums if key.startswith(f"{folder.name}/")}
        - {f"{folder.name}/{name}" for name in tensors}
    ):
        raise WeightsError(f"{folder} lacks {min(missing)}")


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[WeightsFile]:
    """Opens a folder that `write_folder` wrote.

    Raises:
        WeightsError: it is damaged, or holds links.
    """
    with report_damage():
        _check_files(path)
        texts = check_texts(_read_json(path / "metadata" / "metadata"))
        tensors = _list_tensors(path / "variables")
        metadata, alpha, variant = Metadata.from_texts(texts), texts.get("alpha"), parse_variant(texts)
    yield WeightsFile("Orbax folder", path, tensors, "flax", metadata, alpha, variant)


@contextlib.contextmanager
def open_workdir(path: Path, name: CheckpointName) -> Iterator[WeightsFile]:
    """Opens a checkpoint of a training run: the variables that were evaluated, without those of the optimizer.

    If the run kept a moving average of the parameters, the average is read instead of the parameters. If the run
    re-estimated the statistics of batch normalization, these are read instead of the moving statistics.

    Args:
        path: the workdir.
        name: the checkpoint to open.

    Raises:
        WeightsError: it is damaged, holds links, or there is no complete checkpoint yet.
    """
    if name not in get_args(CheckpointName):
        raise WeightsError(f"unknown checkpoint {name!r}: choose best or latest")
    with report_damage():
        _check_files(path / CHECKPOINTS)
        folder = find_checkpoint(path / CHECKPOINTS, name)
        if folder is None:
            raise WeightsError("no complete checkpoint: train it first, or wait for the end of its first epoch")
        checksums = read_checksums(folder)
        history = _read_json(folder / "history" / "metadata")
        check_json(folder, checksums, "history", history)
        config = _read_json(path / "config.json")
        size = config["data"]["image_size"]
        scaling = parse_input_scaling(history["input_scaling"])
        steps = {key: config["data"][key] for key in Preprocessing._fields if key in config["data"]}
        metadata = Metadata((size, size), scaling, tuple(history["classes"]), preprocessing=Preprocessing(**steps))
        variant = {
            name: config["model"][name] for name in VARIANT if name in config["model"]
        }  # not in earlier versions
        tensors = _select_variables(_list_tensors(folder / "state", checksums))
        if config["train"].get("reestimate_batch_norm"):  # a key that runs of earlier versions do not have
            statistics = _list_tensors(folder / REESTIMATED, checksums)
            if not statistics:
                raise WeightsError(f"damaged ({folder.name}/{REESTIMATED} holds no arrays)")
            tensors |= statistics
    checkpoint = describe_checkpoint(name, folder)
    yield WeightsFile(checkpoint, folder, tensors, "flax", metadata, variant=variant, checkpoint=checkpoint)


def _select_variables(state: dict[str, FileTensor]) -> dict[str, FileTensor]:
    averages = {name.replace("ema.", "params.", 1): t for name, t in state.items() if name.startswith("ema.")}
    params = averages or {name: t for name, t in state.items() if name.startswith("params.")}
    return params | {name: t for name, t in state.items() if name.startswith("batch_stats.")}


def write_folder(path: Path, tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
    """Writes a folder: `variables`, as `MobileNet.apply` takes them, and `metadata`, a JSON object of strings.

    Args:
        path: the folder, which must not exist.
        tensors: by their names of `layout.py`, in Flax's layout.
        texts: the metadata.
    """
    variables = unflatten_dict(dict(tensors), sep=".")
    args = ocp.args.Composite(variables=ocp.args.PyTreeSave(variables), metadata=ocp.args.JsonSave(dict(texts)))
    with _write_lock, ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=args)


def _check_files(folder: Path) -> None:
    """Refuses links, which could lead anywhere, and special files: reading a pipe never ends.

    A run that is being trained renames and deletes checkpoints meanwhile; those that have disappeared are left out.
    """
    contents = (Path(parent, name) for parent, folders, files in os.walk(folder) for name in (*folders, *files))
    for i, path in enumerate(contents):
        if i > _MAX_FILES:
            raise WeightsError(f"it holds more than {_MAX_FILES} files")
        with contextlib.suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise WeightsError(f"{path.relative_to(folder)} in it is a link or a special file")


def _read_json(path: Path) -> Any:
    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        raise WeightsError(f"damaged, or not weights ({name} is missing)")
    if path.stat().st_size > _MAX_JSON:
        raise WeightsError(f"{name} in it has more than {_MAX_JSON:,} bytes")
    return json.loads(path.read_text())


def _list_tensors(folder: Path, checksums: dict[str, int] | None = None) -> dict[str, FileTensor]:
    """Returns the arrays of an Orbax folder; reading one compares it with its checksum, if there are checksums."""
    tensors = {}
    for name, array in _open_arrays(folder).items():
        checksum = None if checksums is None else checksums.get(f"{folder.name}/{name}", _NO_CHECKSUM)
        read = functools.partial(_read_array, name, array, checksum)
        tensors[name] = FileTensor(name, tuple(array.shape), str(array.dtype.numpy_dtype), read)
    return tensors


def _open_arrays(folder: Path) -> dict[str, ts.TensorStore]:
    """Opens the arrays of an Orbax folder: a database with the keys `NAME/.zarray` and `NAME/CHUNK`."""
    database = {"driver": "ocdbt", "base": folder.absolute().as_uri()}
    keys = [key.decode() for key in ts.KvStore.open(database).result().list().result()]
    names = [key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")]
    specs = [{"driver": "zarr", "kvstore": {**database, "path": f"{name}/"}} for name in names]
    futures = [ts.open(spec, open=True, read=True) for spec in specs]
    return {name: future.result() for name, future in zip(names, futures, strict=True)}


@report_damage()
def _read_array(name: str, array: ts.TensorStore, checksum: int | None) -> np.ndarray:
    chunk: Any = array.chunk_layout.read_chunk.shape  # reading a part of a chunk takes the memory of all of it
    if math.prod(chunk or ()) > max(2 * math.prod(array.shape), _MIN_CHUNK_LIMIT):  # None for a scalar
        raise WeightsError(f"tensor {name} of shape {array.shape} is cut into chunks of {chunk}")
    compressor = (array.spec().to_json()["metadata"]["compressor"] or {}).get("id")
    if compressor not in _COMPRESSORS:
        raise WeightsError(f"tensor {name} is compressed by {compressor}, but Orbax folders use zstd")
    values = np.array(array.read().result())
    if checksum is not None and checksum != _compute_checksum(values):
        raise WeightsError(f"tensor {name} has changed since it was written")
    return values


def _compute_checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data)
