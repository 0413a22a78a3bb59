"""Checkpoints of a run: the latest two, for resuming, and the best one, for inference."""

import asyncio
import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from input_pipeline.errors import get_first_line
from mobilenet_jax.cluster import broadcast, broadcast_text, is_first_process
from mobilenet_jax.errors import WeightsError, WorkdirError
from mobilenet_jax.training.history import NOT_EVALUATED
from mobilenet_jax.training.step import TrainState
from mobilenet_jax.weights.orbax import (
    BEST_MODE,
    CHECKSUMS,
    REESTIMATED,
    check_arrays,
    check_json,
    compute_checksums,
    compute_json_checksum,
    find_damaged_scores,
    get_score,
    read_checksums,
    rewrite_score,
)

MAX_CHECKPOINTS = 4  # the latest two, the best, and one that is being written

_REPLACED = ".replaced"  # follows the step of a checkpoint until the one that replaces it is complete
_logger = logging.getLogger(__name__)


def has_checkpoints(folder: Path) -> bool:
    """Returns whether there is a complete checkpoint, readable or not; Orbax names their folders by their steps."""
    return any(path.name.removesuffix(_REPLACED).isdigit() for path in folder.glob("*"))


class Checkpoints:
    """The folder `checkpoints/` of a workdir, with one folder per kept step.

    A checkpoint holds the state and the history of the run. If the state was evaluated with re-estimated statistics of
    batch normalization, it holds these too, for `weights.orbax`; a resumed run does not need them. A checkpoint is
    saved in the background, and appears under its name only when it is complete. Use as a context manager: leaving it
    waits for the last save.

    The first process alone reads and writes, since it holds the whole state. Orbax's processes would wait for each
    other at every save, for minutes if one of them has an error.
    """

    def __init__(self, folder: Path, compute_score: Callable[[dict[str, Any]], float]):
        """Initializes the checkpoints; nothing is read yet.

        Args:
            folder: the folder.
            compute_score: computes the score of a checkpoint from its history, as JSON values. The one with the highest
                score is kept as the best. It is `NOT_EVALUATED` for a state that was not evaluated.
        """
        self._folder, self._compute_score = folder.absolute(), compute_score

    def __enter__(self) -> "Checkpoints":
        if is_first_process():
            self._policy = asyncio.get_event_loop_policy()
            with self._report_errors("read"):
                _settle_replaced(self._folder)
                self._repair_scores()
                self._folder.mkdir(exist_ok=True)
                asyncio.set_event_loop_policy(_DrainingPolicy())
                try:
                    self._manager = _CheckpointManager(self._folder, options=_make_options())
                except BaseException:
                    asyncio.set_event_loop_policy(self._policy)
                    raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._report_errors("write"):
            if is_first_process():
                self._manager.close()
                _settle_replaced(self._folder)
                if error is None:  # otherwise a thread of Orbax may still start an event loop
                    asyncio.set_event_loop_policy(self._policy)

    def save(self, state: TrainState, history: dict[str, Any], statistics: Any | None = None) -> None:
        """Saves asynchronously.

        An evaluated state replaces the same one that was not evaluated, which a run saved when it stopped before.

        Args:
            state: the state of the run.
            history: the history as JSON values.
            statistics: the re-estimated statistics of batch normalization; None without re-estimation.

        Raises:
            WorkdirError: the checkpoint, or the one before, cannot be written.
        """
        if not is_first_process():
            return
        metrics = {"score": self._compute_score(history)}
        arrays = {"state": _copy_to_host(state)}
        if statistics is not None:
            arrays[REESTIMATED] = {"batch_stats": _copy_to_host(statistics)}
        checksums = {"history": compute_json_checksum(history), "metrics": compute_json_checksum(metrics)}
        for item, tree in arrays.items():
            checksums |= compute_checksums(item, tree)
        args = ocp.args.Composite(
            **{item: ocp.args.StandardSave(tree) for item, tree in arrays.items()},
            history=ocp.args.JsonSave(history),
            **{CHECKSUMS: ocp.args.JsonSave(checksums)},
        )
        step = int(state.step)
        with self._report_errors("write"):
            self._manager.wait_until_finished()
            _settle_replaced(self._folder)
            is_evaluated = metrics["score"] != NOT_EVALUATED
            if is_evaluated and step in self._manager.all_steps():  # Orbax does not save a step twice
                (self._folder / str(step)).rename(self._folder / f"{step}{_REPLACED}")
                self._manager.reload()
            self._manager.save(step, args=args, metrics=metrics)

    def wait_until_saved(self) -> None:
        """Waits until the last save is complete.

        Raises:
            WorkdirError: it cannot be written.
        """
        if is_first_process():
            with self._report_errors("write"):
                self._manager.wait_until_finished()

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Returns the latest readable state and its history; newer, damaged checkpoints are removed with a warning.

        Args:
            like: a state with the shapes, types and devices of the result. The devices may differ from those that
                the state was saved from.

        Returns:
            None if there is no checkpoint.

        Raises:
            WorkdirError: no checkpoint is readable; raised in the first process.
        """
        arrays = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        found = False
        history: dict[str, Any] = {}
        if is_first_process() and (restored := self._read_latest(arrays)):
            found, (arrays, history) = True, restored
        if not broadcast(np.bool_(found)):
            return None
        state = jax.tree.map(lambda x, value: jax.device_put(value, x.sharding), like, broadcast(arrays))
        return state, json.loads(broadcast_text(json.dumps(history)))

    def _read_latest(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """Reads the latest readable checkpoint as NumPy arrays; `like` holds arrays of their shapes and types."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), history=ocp.args.JsonRestore())
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                folder = self._folder / str(step)
                checksums = read_checksums(folder)
                check_arrays(folder / "state", checksums)
                restored = self._manager.restore(step, args=args)
                check_json(folder, checksums, "history", restored.history)
            except Exception as error:  # Orbax and its storage raise almost anything for a damaged file
                _warn_damaged(step, error)
                damaged.append(step)
                continue
            for newer in damaged:
                self._manager.delete(newer)
            return restored.state, restored.history
        if damaged:
            raise WorkdirError(_describe_unreadable(self._folder))
        return None

    def _repair_scores(self) -> None:
        """Replaces damaged scores: Orbax would not open any checkpoint otherwise.

        A checkpoint whose history is damaged too is removed, unless it is the only one.

        Raises:
            OSError: the disk cannot be read now; the checkpoint may be whole.
            WorkdirError: the only checkpoint is damaged.
        """
        for checkpoint, error in find_damaged_scores(self._folder).items():
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise error
            try:
                rewrite_score(checkpoint, self._compute_score)
            except (FileNotFoundError, LookupError, TypeError, ValueError, WeightsError):
                if [path.name for path in self._folder.iterdir() if path.name.isdigit()] == [checkpoint.name]:
                    raise WorkdirError(_describe_unreadable(self._folder)) from error
                _warn_damaged(checkpoint.name, error)
                shutil.rmtree(checkpoint)
            else:
                _logger.warning(
                    "the score of checkpoint %s was damaged (%s); it is computed again from its history",
                    checkpoint.name,
                    get_first_line(error),
                )

    @contextlib.contextmanager
    def _report_errors(self, verb: str) -> Iterator[None]:
        """Raises a WorkdirError for any error of Orbax, which raises whatever its storage raised."""
        try:
            yield
        except WorkdirError:
            raise
        except (Exception, asyncio.CancelledError) as error:  # the latter is not an Exception
            raise WorkdirError(
                f"cannot {verb} a checkpoint in {self._folder} ({get_first_line(error)}): fix the disk and start "
                "again; the run continues after its last complete checkpoint"
            ) from error


def _make_options() -> ocp.CheckpointManagerOptions:
    # A folder without a score is the rest of one whose deletion was interrupted.
    best = checkpoint_managers.BestN(get_metric_fn=get_score, n=1, keep_checkpoints_without_metrics=False)
    policies = [checkpoint_managers.LatestN(2), best]
    return ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        best_fn=get_score,
        best_mode=BEST_MODE,
        create=False,  # Orbax demands it if not all processes are active
        cleanup_tmp_directories=True,  # those of processes that were killed; the workdir is locked
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
        ),
    )


def _copy_to_host(tree: Any) -> Any:
    """Returns copies as NumPy arrays: a training step may overwrite the memory of its state during the save."""
    return jax.tree.map(lambda x: np.array(x), tree)


class _CheckpointManager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Leaves JAX's synchronization point to `preemption.StopRequest`.

        Orbax reports steps to it from its saves, even from a background thread that lags behind the training, with
        which the processes would not agree on a count to stop at.
        """
        return False


class _DrainingEventLoop(asyncio.SelectorEventLoop):
    """Waits for its pending tasks before it closes, and ignores results that arrive afterwards.

    Orbax 0.12.5 to 0.12.8 reads and writes the arrays of a checkpoint concurrently in an event loop of its own
    (`orbax/checkpoint/_src/asyncio_utils.py`). At the first error it closes the loop while the other tasks are pending,
    where `asyncio.run`, used before, would have awaited them. Each of them then fails with "Event loop is closed" and
    prints a stack trace: a disk that fills up during a save printed 1,007 lines around the one error. Orbax raises the
    first error, so the others are logged at DEBUG.
    """

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        _logger.debug("a task of Orbax failed: %s", context)

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        try:
            return super().call_soon_threadsafe(*args, **options)
        except RuntimeError:
            if not self.is_closed():
                raise
            return None  # a write of TensorStore was finished that no task awaits any more

    def close(self) -> None:
        if not self.is_closed() and not self.is_running():
            pending = asyncio.all_tasks(self)
            if pending:
                self.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        super().close()


class _DrainingPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes new event loops of all threads draining ones: Orbax creates its loops in background threads."""

    _loop_factory = _DrainingEventLoop


def _settle_replaced(folder: Path) -> None:
    """Removes checkpoints that were replaced, and puts back those whose replacement was not completed."""
    for replaced in folder.glob(f"*{_REPLACED}"):
        if (checkpoint := replaced.with_suffix("")).exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(checkpoint)


def _describe_unreadable(folder: Path) -> str:
    return f"no checkpoint in {folder} is readable: remove the folder to start over"


def _warn_damaged(step: int | str, error: Exception) -> None:
    _logger.warning("checkpoint %s is damaged (%s); it is not used", step, get_first_line(error))
