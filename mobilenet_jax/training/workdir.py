"""The working directory of a run: its lock, and every file in it but the checkpoints."""

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import filelock
from ml_collections import ConfigDict

from input_pipeline.atomic_files import get_free_bytes, is_unfinished, remove_leftovers, write_atomically
from mobilenet_jax.cluster import is_first_process, synchronize_processes
from mobilenet_jax.errors import WorkdirError
from mobilenet_jax.training.checkpoints import has_checkpoints
from mobilenet_jax.training.config import find_differences
from mobilenet_jax.training.history import Record, find_best
from mobilenet_jax.weights.orbax import CHECKPOINTS

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

_LOCK = ".lock"  # a file in the folder; it stays when the lock is released
_SECONDS_BETWEEN_DRAWINGS = 10

_logger = logging.getLogger(__name__)


class Workdir:
    """The folder of a run. Use as a context manager: while it is active, no other run can use the folder.

    Only the first process reads and writes the folder.
    """

    def __init__(self, path: Path, config: dict[str, Any], bytes_needed: int):
        """Creates the folder, or checks that it holds an earlier part of the same run.

        The `config.json` of a new run is written at once, so that a run that is killed at any moment recognizes its
        folder; that of an earlier part is left unchanged.

        Args:
            path: the folder.
            config: the configuration of the run.
            bytes_needed: the size of the checkpoints of a new run.

        Raises:
            WorkdirError: the folder holds a run with another configuration or something else, cannot be written, or
                its disk is too full. No file of an earlier run has been changed then.
        """
        self._path, self._config = path, config
        self._events: SummaryWriter | None = None
        self._epochs_written = 0
        self._last_drawing = time.monotonic()
        self._writes = is_first_process()
        if not self._writes:
            return
        if earlier := check_workdir(path, config):  # names, labels and lesions are compared later, pixels are not
            _logger.warning("%s continues with images in %s instead of %s", path, config["data"]["dir"], earlier)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkdirError(f"cannot create {path} ({error.strerror}): choose another --workdir") from error
        self._lock = _acquire_lock(path)
        try:
            remove_leftovers(path)
            if not (path / "config.json").exists():
                self.check_space(bytes_needed)
                self._write("config.json", _format_json(config))
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "Workdir":
        synchronize_processes("the workdir exists")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if self._events:
                self._events.close()
        finally:
            if self._writes:
                self._lock.release()

    def check_space(self, bytes_needed: int) -> None:
        """Checks that the disk can hold the next checkpoint.

        Raises:
            WorkdirError: there is not enough space.
        """
        if self._writes and (free := get_free_bytes(self._path)) < bytes_needed:
            raise WorkdirError(
                f"the disk of {self._path} has {free / 1e6:.1f} MB free, but checkpoints need {bytes_needed / 1e6:.1f} "
                "MB: free some space and start again, the run continues after its last checkpoint; or choose another "
                "--workdir"
            )

    def write_inputs(self, split: str, parameters: str) -> None:
        """Writes `config.json`, `splits.csv` (the split of each image) and `parameters.txt`.

        Called after resuming succeeded, so that a refused run leaves the files of the earlier one unchanged.
        """
        self._write("splits.csv", split)
        self._write("parameters.txt", parameters)
        self._write("config.json", _format_json(self._config))

    def write_metrics(self, records: Sequence[Record], *, is_last: bool = False) -> None:
        """Writes `metrics.jsonl`, with one line per epoch, `curves.png`, and `tensorboard/`.

        Args:
            records: the records of all epochs.
            is_last: whether the run is finished. Before, `curves.png` is redrawn at most every ten seconds.
        """
        if self._writes:
            self._write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))
            if is_last or time.monotonic() - self._last_drawing > _SECONDS_BETWEEN_DRAWINGS:
                from mobilenet_jax.evaluation.plots import draw_curves, encode_png  # imports matplotlib

                best = find_best(records, ConfigDict(self._config["early_stopping"]))
                self._write("curves.png", encode_png(draw_curves(records, best["epoch"]), dpi=100))
                self._last_drawing = time.monotonic()
            with _report_errors(self._path / "tensorboard"):
                self._write_events(records)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes `summary.json`, which marks the run as finished."""
        self._write("summary.json", _format_json(summary))

    def remove_summary(self) -> None:
        """Removes the `summary.json` of a finished run that is trained again, or for longer."""
        if self._writes:
            with _report_errors(self._path / "summary.json"):
                (self._path / "summary.json").unlink(missing_ok=True)

    def _write(self, name: str, content: bytes | str) -> None:
        if self._writes:
            with _report_errors(self._path / name):
                write_atomically(self._path / name, content)

    def _write_events(self, records: Sequence[Record]) -> None:
        """Appends to TensorBoard's event file; a resumed run starts a new one, to agree with the records."""
        if self._events is None:
            from tensorboardX import SummaryWriter  # imports PyTorch where it is installed

            shutil.rmtree(self._path / "tensorboard", ignore_errors=True)
            self._events = SummaryWriter(str(self._path / "tensorboard"), write_to_disk=True)
        for record in records[self._epochs_written :]:
            for name, value in record.items():
                subset, _, metric = name.partition("_")
                tag = f"{metric}/{subset}" if subset in ("train", "val") else f"run/{name}"
                self._events.add_scalar(tag, value, record["epoch"])
        self._epochs_written = len(records)
        self._events.flush()


def check_workdir(path: Path, config: dict[str, Any]) -> str | None:
    """Checks that a folder can hold a run: it does not exist, is empty, or holds an earlier part of the same run.

    Args:
        path: the folder.
        config: the configuration of the run.

    Returns:
        The folder of the images of the earlier part, if it is another one.

    Raises:
        WorkdirError: it holds a run with another configuration, or something else.
    """
    file, metrics = path / "config.json", path / "metrics.jsonl"
    if file.exists():
        # Before the first checkpoint, a configuration that does not work can be corrected.
        may_differ = not (has_checkpoints(path / CHECKPOINTS) or metrics.exists())
        return _check_same_run(file, config, may_differ=may_differ)
    if path.exists() and not (path.is_dir() and all(map(_is_ignored, path.iterdir()))):
        raise WorkdirError(f"{path} exists and does not hold a run: choose another --workdir")
    return None


def _format_json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


def _check_same_run(file: Path, config: dict[str, Any], *, may_differ: bool) -> str | None:
    """Raises if a `config.json` is not that of a run, or differs from `config` in more than the place of the images.

    `train.epochs` may differ too, unless the schedule depends on it. With `may_differ`, all settings may. Returns the
    place of the images if it differs.
    """
    try:
        stored = json.loads(file.read_text())
        differences = find_differences(stored, config)
        if stored.keys() != config.keys():
            raise ValueError("it is not the configuration of a run")
    except (OSError, ValueError, RecursionError, AttributeError) as error:  # the last: JSON, but not an object
        raise WorkdirError(f"{file} cannot be read ({error}): choose another --workdir") from error
    if may_differ:
        return None
    free = {"data.dir", "data.cache", *(["train.epochs"] * (config["optimizer"]["schedule"] != "cosine"))}
    changes = [f"{key}: {old!r} -> {new!r}" for key, (old, new) in differences.items() if key not in free]
    if changes:
        hint = "; the cosine schedule depends on train.epochs, and 0 epochs on the number of training images"
        raise WorkdirError(
            f"{file.parent} holds a run with another configuration ({'; '.join(changes)}): choose another "
            f"--workdir, or remove that folder{hint if 'train.epochs' in differences.keys() - free else ''}"
        )
    earlier, _ = differences.get("data.dir", (None, None))
    return earlier


def _is_ignored(path: Path) -> bool:
    """Returns whether a folder that holds this file can hold a new run: a killed process may leave such files."""
    return path.name == _LOCK or is_unfinished(path)


def _acquire_lock(path: Path) -> filelock.BaseFileLock:
    """Locks a folder until the lock is released or the process ends."""
    lock = filelock.FileLock(path / _LOCK)
    with _report_errors(path / _LOCK):
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout as error:
            raise WorkdirError(f"{path} is in use by another run: wait for it, or choose another --workdir") from error
    return lock


@contextlib.contextmanager
def _report_errors(path: Path) -> Iterator[None]:
    """Raises a WorkdirError if writing `path` fails."""
    try:
        yield
    except OSError as error:
        raise WorkdirError(
            f"cannot write {path} ({error.strerror}): free some space or fix the disk and start again, the run "
            "continues after its last checkpoint"
        ) from error
