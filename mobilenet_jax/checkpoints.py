"""Checkpoints of a run: the latest, to go on from, and the best, to use."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mobilenet_jax.train_step import TrainState
from mobilenet_jax.workdir import WorkdirError

BEST_BY = "val_balanced_accuracy"


def kept_folder(folder: Path, which: Literal["best", "latest"]) -> Path | None:
    """The folder of a run's best or latest whole checkpoint, None if there is none. Nothing is changed there."""
    options = ocp.CheckpointManagerOptions(create=False, best_fn=lambda metrics: metrics[BEST_BY], best_mode="max")
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        step = manager.best_step() if which == "best" else manager.latest_step()
    return None if step is None else folder / str(step)


class Checkpoints:
    """The folder `checkpoints/` of a workdir, one sub-folder for each step that is kept.

    A checkpoint holds the state and the run's history: the record of every epoch so far, and what the data were.
    Saving goes on in the background, and a checkpoint appears under its name only when it is whole. Use as a context:
    leaving it waits for the last one.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        policies = [
            checkpoint_managers.LatestN(1),
            checkpoint_managers.BestN(get_metric_fn=lambda metrics: metrics[BEST_BY], n=1),
        ]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            best_fn=lambda metrics: metrics[BEST_BY],
            best_mode="max",
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._told_in_a_line("write"):
            self._manager.close()

    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, history: dict[str, Any]) -> None:
        """Starts to save after an epoch; `history["epochs"]` ends with that epoch's record."""
        record = history["epochs"][-1]
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), history=ocp.args.JsonSave(history))
        with self._told_in_a_line("write"):  # also what went wrong with the save before
            self._manager.save(record["step"], args=args, metrics={BEST_BY: record[BEST_BY]})

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state and its history. `like` gives shapes, types and the devices to restore to."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), history=ocp.args.JsonRestore())
        with self._told_in_a_line("read"):
            restored = self._manager.restore(self._manager.latest_step(), args=args)
            return restored.state, restored.history

    @contextlib.contextmanager
    def _told_in_a_line(self, verb: str) -> Iterator[None]:
        """Orbax fails with whatever its storage raised; what a user can do is the same for all of it."""
        try:
            yield
        except Exception as error:
            line = str(error).partition("\n")[0][:200]
            raise WorkdirError(
                f"cannot {verb} a checkpoint in {self._folder} ({line}): mend the disk and start again, the run goes "
                "on after its last whole checkpoint; remove the newest folder there if it is damaged"
            ) from error
