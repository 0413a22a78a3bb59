"""The files of a run that people and programs read: tables and figures, each written whole or not at all."""

import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mobilenet_jax.config import differences

_MAY_CHANGE = ("train.epochs",)


class WorkdirError(ValueError):
    """A run cannot use its workdir. The message says why and what to do."""


def open_workdir(workdir: Path, config: dict[str, Any], checkpoint_bytes: int) -> None:
    """Makes the folder, or checks that it holds an earlier part of the same run.

    A new run's `config.json` is written at once, so that a run killed at any moment finds its folder again; that of an
    earlier part is left as it is.

    Args:
        workdir: the folder; made if it is not there.
        config: the run's configuration.
        checkpoint_bytes: the size of a checkpoint; a new run needs three, the latest, the best and the next.

    Raises:
        WorkdirError: the folder belongs to a run with another configuration or to something else, or cannot be
            written, or its disk is too full. Nothing has been changed then.
    """
    path = workdir / "config.json"
    if path.exists():
        try:
            changed = [d for d in differences(json.loads(path.read_text()), config) if not d.startswith(_MAY_CHANGE)]
        except (OSError, ValueError, AttributeError) as error:  # the last: JSON, but no object
            raise WorkdirError(f"{path} cannot be read ({error}): choose another --workdir") from error
        if changed:
            raise WorkdirError(
                f"{workdir} holds a run with another configuration ({'; '.join(changed)}): "
                "choose another --workdir, or remove that one"
            )
    elif workdir.exists() and (not workdir.is_dir() or any(p != _unfinished(path) for p in workdir.iterdir())):
        raise WorkdirError(f"{workdir} exists and holds no run: choose another --workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"cannot make {workdir} ({error.strerror}): choose another --workdir") from error
    if not path.exists():
        check_space(workdir, 3 * checkpoint_bytes)
        write_config(workdir, config)


def write_config(workdir: Path, config: dict[str, Any]) -> None:
    """Writes `config.json`."""
    _write(workdir / "config.json", json.dumps(config, indent=2) + "\n")


def check_space(workdir: Path, bytes_needed: int) -> None:
    """Asks whether the disk has room, so that a full one is told of in a line and not by half a checkpoint.

    Raises:
        WorkdirError: it has not.
    """
    free = shutil.disk_usage(workdir).free
    if free < bytes_needed:
        raise WorkdirError(
            f"the disk of {workdir} has {free / 1e6:.1f} MB free and checkpoints need {bytes_needed / 1e6:.1f} MB: "
            "make room and start again, the run goes on after its last checkpoint; or choose another --workdir"
        )


def write_metrics(workdir: Path, records: Sequence[dict[str, Any]]) -> None:
    """Writes `metrics.jsonl`, a line an epoch, and `curves.png`."""
    _write(workdir / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    _draw_curves(workdir / "curves.png", records)


def write_split(workdir: Path, table: str) -> None:
    """Writes `splits.csv`: which image is on which side."""
    _write(workdir / "splits.csv", table)


def write_summary(workdir: Path, summary: dict[str, Any]) -> None:
    """Writes `summary.json`."""
    _write(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")


def _unfinished(path: Path) -> Path:
    """Where a file is written before it gets its name, so that under its name it is always whole."""
    return path.with_name(f".{path.name}.unfinished")


def _write(path: Path, content: bytes | str) -> None:
    try:
        _unfinished(path).write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(_unfinished(path), path)
    except OSError as error:
        _unfinished(path).unlink(missing_ok=True)
        raise WorkdirError(
            f"cannot write {path} ({error.strerror}): make room or mend the disk and start again, the run goes on "
            "after its last checkpoint"
        ) from error


def _draw_curves(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """The article's figure: loss and accuracy of training and validation by epoch, and balanced accuracy."""
    epochs = [r["epoch"] for r in records]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, metric in zip(axes, ("loss", "accuracy", "balanced_accuracy"), strict=True):
        for side, name, style in (("train", "training", "o-"), ("val", "validation", "s-")):
            values = [r[f"{side}_{metric}"] for r in records]
            axis.plot(epochs, values, style, markersize=3, label=name)
        axis.set_xlabel("epoch")
        axis.set_title("loss (cross-entropy)" if metric == "loss" else metric.replace("_", " "))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.set_ylim(*((0, None) if metric == "loss" else (0, 1)))
    axes[0].legend()
    figure.savefig(png := io.BytesIO(), format="png", dpi=100)
    _write(path, png.getvalue())
