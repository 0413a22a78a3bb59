"""Checkpoints of a run: the latest two, to go on from, and the best, to use."""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mobilenet_jax.errors import WorkdirError
from mobilenet_jax.training.step import TrainState

KEPT = 3  # at most, and one more while it is written
_UNRATED = -1e30  # within an epoch there is nothing to rate a state by


def find_checkpoint(folder: Path, which: Literal["best", "latest"]) -> Path | None:
    """The folder of a run's best or latest whole checkpoint, None if there is none. Nothing is changed there."""
    options = ocp.CheckpointManagerOptions(create=False, best_fn=_score, best_mode="max")
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        step = manager.best_step() if which == "best" else manager.latest_step()
    return None if step is None else folder / str(step)


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


class Checkpoints:
    """The folder `checkpoints/` of a workdir, one sub-folder for each step that is kept.

    A checkpoint holds the state and the run's history: the record of every epoch so far, what of an epoch is done, and
    what the data were. Saving goes on in the background, and a checkpoint appears under its name only when it is
    whole. Use as a context: leaving it waits for the last one.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        policies = [
            checkpoint_managers.LatestN(2),
            checkpoint_managers.BestN(get_metric_fn=_score, n=1),
        ]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies), best_fn=_score, best_mode="max"
        )
        with self._told_in_a_line("read"):
            _leave_out_unrated(folder)
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._told_in_a_line("write"):
            self._manager.close()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, history: dict[str, Any], score: float | None) -> None:
        """Starts to save. The highest score is the best; None is for a state within an epoch."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), history=ocp.args.JsonSave(history))
        metrics = {"score": _UNRATED if score is None else score}
        with self._told_in_a_line("write"):  # also what went wrong with the save before
            self._manager.save(int(state.step), args=args, metrics=metrics)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state that can be read, and its history; damaged ones after it are removed, with a warning.

        Args:
            like: gives shapes, types and the devices to restore to, which need not be those it was saved from.

        Raises:
            WorkdirError: none can be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), history=ocp.args.JsonRestore())
        steps = sorted(self._manager.all_steps(), reverse=True)
        for i, step in enumerate(steps):
            try:
                restored = self._manager.restore(step, args=args)
            except Exception as error:  # whatever Orbax and its storage make of a damaged file
                _warn(step, error)
                continue
            for damaged in steps[:i]:
                self._manager.delete(damaged)
            return restored.state, restored.history
        raise WorkdirError(f"no checkpoint in {self._folder} can be read: remove the folder to start anew")

    @contextlib.contextmanager
    def _told_in_a_line(self, verb: str) -> Iterator[None]:
        """Orbax fails with whatever its storage raised; what a user can do is the same for all of it."""
        try:
            yield
        except Exception as error:
            raise WorkdirError(
                f"cannot {verb} a checkpoint in {self._folder} ({_first_line(error)}): mend the disk and start again, "
                "the run goes on after its last whole checkpoint"
            ) from error


def _leave_out_unrated(folder: Path) -> None:
    """Removes checkpoints whose score is damaged, with a warning: Orbax would open none then."""
    for path in folder.glob("*/metrics/metrics"):
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            _warn(path.parents[1].name, error)
            shutil.rmtree(path.parents[1])


def _warn(step: int | str, error: Exception) -> None:
    print(f"warning: checkpoint {step} is damaged ({_first_line(error)}), left out", file=sys.stderr)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
