"""The files of a run that people and programs read: `config.json`, `metrics.jsonl`, `summary.json`, `curves.png`."""

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


def open_workdir(workdir: Path, config: dict[str, Any], bytes_needed: int) -> None:
    """Makes the folder, or checks that it holds an earlier part of the same run, and writes `config.json`.

    Args:
        workdir: the folder; made if it is not there.
        config: the run's configuration.
        bytes_needed: disk space the run will take.

    Raises:
        WorkdirError: the folder belongs to a run with another configuration or to something else, or cannot be
            written, or its disk is too full. Nothing has been changed then.
    """
    path = workdir / "config.json"
    if path.exists():
        try:
            earlier = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise WorkdirError(f"{path} cannot be read ({error}): choose another --workdir") from error
        changed = [d for d in differences(earlier, config) if not d.startswith(_MAY_CHANGE)]
        if changed:
            raise WorkdirError(
                f"{workdir} holds a run with another configuration ({'; '.join(changed)}): "
                "choose another --workdir, or remove that one"
            )
    elif workdir.exists() and (not workdir.is_dir() or any(p != _unfinished(path) for p in workdir.iterdir())):
        raise WorkdirError(f"{workdir} exists and holds no run: choose another --workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(workdir).free
        if free < bytes_needed:
            raise WorkdirError(
                f"the disk of {workdir} has {free / 1e6:.0f} MB free and the run's checkpoints need "
                f"{bytes_needed / 1e6:.0f} MB: make room or choose another --workdir"
            )
        _write(path, json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise WorkdirError(f"cannot write {workdir} ({error.strerror}): choose another --workdir") from error


def write_metrics(workdir: Path, records: Sequence[dict[str, Any]]) -> None:
    """Writes `metrics.jsonl`, a line an epoch, and `curves.png`."""
    _write(workdir / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    _draw_curves(workdir / "curves.png", records)


def write_summary(workdir: Path, summary: dict[str, Any]) -> None:
    """Writes `summary.json`."""
    _write(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")


def _unfinished(path: Path) -> Path:
    """Where a file is written before it gets its name, so that under its name it is always whole."""
    return path.with_name(f".{path.name}.unfinished")


def _write(path: Path, text: str) -> None:
    _unfinished(path).write_text(text)
    os.replace(_unfinished(path), path)


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
    figure.savefig(_unfinished(path), format="png", dpi=100)
    os.replace(_unfinished(path), path)
