"""Writes an evaluation as files: `metrics.json`, `predictions.csv`, plots as PNG, and `report.html`."""

import json
import math
from pathlib import Path
from typing import Any

from input_pipeline.atomic_files import write_atomically
from mobilenet_jax.evaluation.evaluate import Evaluation
from mobilenet_jax.evaluation.plots import draw_curves, draw_figures, draw_score_histograms, encode_png
from mobilenet_jax.reporting.html_report import render_html
from mobilenet_jax.reporting.limits import list_warnings


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Writes all files of a report. Each is written completely or not at all.

    Args:
        evaluation: the evaluation.
        folder: created if it does not exist.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").unlink(missing_ok=True)  # written last: it shows that the other files are complete
    write_atomically(folder / "predictions.csv", evaluation.predictions.to_csv())
    write_atomically(folder / "metrics.json", json.dumps(build_metrics_json(evaluation), indent=2) + "\n")
    predictions, run = evaluation.predictions, evaluation.runs[0]
    figures, narrow = draw_figures(predictions), {"scores": draw_score_histograms(predictions, narrow=True)}
    if run.records and len(evaluation.runs) == 1:
        figures = {"curves": draw_curves(run.records, run.best_epoch), **figures}
        narrow["curves"] = draw_curves(run.records, run.best_epoch, narrow=True)
    plots, narrow_plots = ({name: encode_png(f) for name, f in group.items()} for group in (figures, narrow))
    for name, png in plots.items():
        write_atomically(folder / f"{name}.png", png)
    write_atomically(folder / "report.html", render_html(evaluation, plots, narrow_plots))


def build_metrics_json(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the content of `metrics.json`; undefined values are null.

    It holds the facts of the evaluation, `warnings`, and `metrics` with their 95% `intervals`.
    """
    intervals = {name: [_replace_nan(x) for x in pair] for name, pair in evaluation.intervals.items()}
    metrics = {name: _replace_nan(value) for name, value in evaluation.metrics.items()}
    return {**evaluation.facts, "warnings": list_warnings(evaluation), "metrics": metrics, "intervals": intervals}


def _replace_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
