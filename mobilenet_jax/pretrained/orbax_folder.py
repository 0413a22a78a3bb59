"""Weights that Orbax keeps: a folder of the variables alone, or a checkpoint in the workdir of a training run."""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from mobilenet_jax.checkpoints import kept_folder
from mobilenet_jax.pretrained.source import Entry, Metadata, Source
from mobilenet_jax.pretrained.tensors import WeightsError


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[Source]:
    """Opens a folder that `write_folder` wrote.

    Raises:
        WeightsError: it is damaged.
    """
    with _damage_told():
        stated = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore((path / "metadata").absolute())
        entries = _entries(path / "variables", ("params", "batch_stats"))
        yield Source(
            "Orbax folder", path, entries, keras_layout=False, stated=stated, metadata=Metadata.from_json(stated)
        )


@contextlib.contextmanager
def open_workdir(path: Path, checkpoint: Literal["best", "latest"]) -> Iterator[Source]:
    """Opens a checkpoint of a training run: the variables, without the optimizer's.

    Args:
        path: the workdir.
        checkpoint: which of its checkpoints.

    Raises:
        WeightsError: it is damaged, or there is no whole checkpoint yet.
    """
    with _damage_told():
        step = kept_folder(path / "checkpoints", checkpoint)
        if step is None:
            raise WeightsError("no whole checkpoint yet")
        history = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore((step / "history").absolute())
        size = json.loads((path / "config.json").read_text())["data"]["image_size"]
        metadata = Metadata((size, size), tuple(history["input_scaling"]), tuple(history["classes"]))
        entries = _entries(step / "state", ("params", "batch_stats"))
        kind = f"{checkpoint} checkpoint, step {step.name}"
        yield Source(kind, step, entries, keras_layout=False, stated={}, metadata=metadata)


def write_folder(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes the folder: `variables`, as `MobileNet.apply` takes them, and `metadata`, a JSON object of texts."""
    variables = unflatten_dict(dict(tensors), sep=".")
    args = ocp.args.Composite(variables=ocp.args.PyTreeSave(variables), metadata=ocp.args.JsonSave(dict(metadata)))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=args)


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    """Orbax fails on damaged folders with whatever its storage raised."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        line = str(error).partition("\n")[0][:200] or type(error).__name__
        raise WeightsError(f"damaged, or no weights ({line})") from error


def _entries(folder: Path, collections: tuple[str, ...]) -> dict[str, Entry]:
    """The tensors of these collections. The first one read reads them all."""
    handler = ocp.PyTreeCheckpointHandler()
    tree: Any = handler.metadata(folder.absolute())
    wanted = {name: tree[name] for name in collections}

    @functools.cache
    def restored() -> dict[str, np.ndarray]:
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
        return flatten_dict(handler.restore(folder.absolute(), args=args), sep=".")

    def read(name: str) -> np.ndarray:
        return restored()[name]

    return {
        name: Entry(name, tuple(leaf.shape), str(leaf.dtype), functools.partial(read, name))
        for name, leaf in flatten_dict(wanted, sep=".").items()
    }
