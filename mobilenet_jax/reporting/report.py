"""Writes an evaluation as files: `metrics.json`, `predictions.csv`, plots as PNG, and `report.html`."""

import json
import math
import os
from pathlib import Path
from typing import Any

from input_pipeline.atomic_files import remove_leftovers, write_atomically
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.evaluate import Evaluation
from mobilenet_jax.evaluation.plots import draw_curves, draw_figures, draw_score_histograms, encode_png
from mobilenet_jax.evaluation.predictions import is_table_of_predictions
from mobilenet_jax.reporting.html_report import render_html
from mobilenet_jax.reporting.limits import list_warnings

_PLOTS = ("confusion", "roc", "precision_recall", "reliability", "scores", "curves")
_FILES = ("metrics.json", "report.html", *(f"{name}.png" for name in _PLOTS))  # and predictions.csv


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Writes all files of a report. Each is written completely or not at all.

    The files of an earlier report are removed first. `predictions.csv` is replaced: it marks the folder of a report.

    Args:
        evaluation: the evaluation.
        folder: created if it does not exist; see `check_report_folder`.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    write_atomically(folder / "predictions.csv", evaluation.predictions.to_csv())
    predictions, run = evaluation.predictions, evaluation.runs[0]
    figures, narrow = draw_figures(predictions), {"scores": draw_score_histograms(predictions, narrow=True)}
    if run.records and len(evaluation.runs) == 1:
        figures = {"curves": draw_curves(run.records, run.best_epoch), **figures}
        narrow["curves"] = draw_curves(run.records, run.best_epoch, narrow=True)
    plots, narrow_plots = ({name: encode_png(f) for name, f in group.items()} for group in (figures, narrow))
    for name, png in plots.items():
        write_atomically(folder / f"{name}.png", png)
    # Other commands require these two, which are last: they show that the other files are complete.
    write_atomically(folder / "metrics.json", json.dumps(build_metrics_json(evaluation), indent=2) + "\n")
    write_atomically(folder / "report.html", render_html(evaluation, plots, narrow_plots))


def check_report_folder(folder: Path) -> None:
    """Checks that a report would replace nothing but an earlier report.

    Raises:
        EvaluationError: the folder holds other files with the names of a report's.
    """
    others = [folder / name for name in ("predictions.csv", *_FILES) if os.path.lexists(folder / name)]
    if others and not is_table_of_predictions(folder / "predictions.csv"):
        raise EvaluationError(f"{others[0]} does not belong to a report, and would be replaced: choose another --out")


def build_metrics_json(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the content of `metrics.json`; undefined values are null.

    It holds the facts of the evaluation, `warnings`, and `metrics` with their 95% `intervals`.
    """
    intervals = {name: [_replace_nan(x) for x in pair] for name, pair in evaluation.intervals.items()}
    metrics = {name: _replace_nan(value) for name, value in evaluation.metrics.items()}
    return {**evaluation.facts, "warnings": list_warnings(evaluation), "metrics": metrics, "intervals": intervals}


def _replace_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
