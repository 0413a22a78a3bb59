"""The files of a run that people and programs read: tables and figures, each written whole or not at all."""

import fcntl
import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter

from mobilenet_jax.config import differences
from mobilenet_jax.errors import WorkdirError
from mobilenet_jax.evaluation.plots import draw_curves


class Workdir:
    """A run's folder. Use as a context: while it is entered no other run can enter it.

    In a process that does not write, every method does nothing.
    """

    def __init__(self, path: Path, config: dict[str, Any], bytes_needed: int, *, writes: bool = True):
        """Makes the folder, or checks that it holds an earlier part of the same run.

        A new run's `config.json` is written at once, so that a run killed at any moment finds its folder again; that
        of an earlier part is left as it is.

        Args:
            path: the folder; made if it is not there.
            config: the run's configuration.
            bytes_needed: room for the checkpoints of a new run.
            writes: whether this process does.

        Raises:
            WorkdirError: the folder belongs to a run with another configuration or to something else, or cannot be
                written, or its disk is too full. Nothing has been changed then.
        """
        self._path, self._writes = path, writes
        self._events: SummaryWriter | None = None
        self._epochs_written = 0
        if not writes:
            return
        file = path / "config.json"
        if file.exists():
            _compare(file, config)
        elif path.exists() and (not path.is_dir() or any(p != _unfinished(file) for p in path.iterdir())):
            raise WorkdirError(f"{path} exists and holds no run: choose another --workdir")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkdirError(f"cannot make {path} ({error.strerror}): choose another --workdir") from error
        self._lock = _lock(path)
        if not file.exists():
            self.check_space(bytes_needed)
            _write(file, json.dumps(config, indent=2) + "\n")

    def __enter__(self) -> "Workdir":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writes:
            os.close(self._lock)
        if self._events:
            self._events.close()

    def check_space(self, bytes_needed: int) -> None:
        """Asks whether the disk has room, so that a full one is told of in a line and not by half a checkpoint.

        Raises:
            WorkdirError: it has not.
        """
        if not self._writes:
            return
        free = shutil.disk_usage(self._path).free
        if free < bytes_needed:
            raise WorkdirError(
                f"the disk of {self._path} has {free / 1e6:.1f} MB free and checkpoints need "
                f"{bytes_needed / 1e6:.1f} MB: make room and start again, the run goes on after its last checkpoint, "
                "or choose another --workdir"
            )

    def write_start(self, config: dict[str, Any], split: str, parameters: str) -> None:
        """Writes `config.json`, `splits.csv` (which image is on which side) and `parameters.txt`."""
        if self._writes:  # only now: a refused resume leaves the earlier ones
            _write(self._path / "splits.csv", split)
            _write(self._path / "parameters.txt", parameters)
            _write(self._path / "config.json", json.dumps(config, indent=2) + "\n")

    def write_metrics(self, records: Sequence[dict[str, Any]]) -> None:
        """Writes `metrics.jsonl`, a line an epoch, `curves.png`, and `tensorboard/` for that program."""
        if self._writes:
            _write(self._path / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in records))
            draw_curves(records).savefig(png := io.BytesIO(), format="png", dpi=100)
            _write(self._path / "curves.png", png.getvalue())
            self._write_events(records)

    def _write_events(self, records: Sequence[dict[str, Any]]) -> None:
        """For TensorBoard. What an earlier part of the run left is written anew, to agree with the records."""
        if self._events is None:
            shutil.rmtree(self._path / "tensorboard", ignore_errors=True)
            self._events = SummaryWriter(str(self._path / "tensorboard"), write_to_disk=True)
        for record in records[self._epochs_written :]:
            for name, value in record.items():
                side, _, figure = name.partition("_")
                tag = f"{figure}/{side}" if side in ("train", "val") else f"run/{name}"
                self._events.add_scalar(tag, value, record["epoch"])
        self._epochs_written = len(records)
        self._events.flush()

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes `summary.json`."""
        if self._writes:
            _write(self._path / "summary.json", json.dumps(summary, indent=2) + "\n")


def _compare(file: Path, config: dict[str, Any]) -> None:
    """Refuses a configuration that is not that of the run, but for its length, where nothing else follows from that."""
    may_change = () if config["optimizer"]["schedule"] == "cosine" else ("train.epochs",)
    try:
        changed = [d for d in differences(json.loads(file.read_text()), config) if not d.startswith(may_change)]
    except (OSError, ValueError, AttributeError) as error:  # the last: JSON, but no object
        raise WorkdirError(f"{file} cannot be read ({error}): choose another --workdir") from error
    if changed:
        raise WorkdirError(
            f"{file.parent} holds a run with another configuration ({'; '.join(changed)}): "
            "choose another --workdir, or remove that one"
        )


def _lock(path: Path) -> int:
    """Keeps other runs out for as long as this process lives, or closes what is returned."""
    folder = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(folder)
        raise WorkdirError(f"{path} is in use by another run: wait for it, or choose another --workdir") from error
    return folder


def _unfinished(path: Path) -> Path:
    """Where a file is written before it gets its name, so that under its name it is always whole."""
    return path.with_name(f".{path.name}.unfinished")


def _write(path: Path, content: bytes | str) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise WorkdirError(
            f"cannot write {path} ({error.strerror}): make room or mend the disk and start again, the run goes on "
            "after its last checkpoint"
        ) from error


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file so that under its name it is whole, or what was there before.

    Raises:
        OSError: it cannot be written.
    """
    try:
        _unfinished(path).write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(_unfinished(path), path)
    except OSError:
        _unfinished(path).unlink(missing_ok=True)
        raise
