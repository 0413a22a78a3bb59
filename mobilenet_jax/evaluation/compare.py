"""Compares several evaluated runs on the same images, with intervals of their differences."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from input_pipeline.atomic_files import write_atomically
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.bootstrap import Intervals, compute_intervals, format_difference
from mobilenet_jax.evaluation.metrics import Metrics, compute_metrics, list_overall
from mobilenet_jax.evaluation.plots import draw_comparison, encode_png
from mobilenet_jax.evaluation.predictions import Predictions, read_predictions
from mobilenet_jax.evaluation.trained_run import find_best_epoch, read_records
from mobilenet_jax.weights.orbax import CHECKPOINTS, describe_checkpoint, find_checkpoint, parse_checkpoint_name

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """Metrics of several runs on the images that all were evaluated on.

    Attributes:
        names: the names of the runs.
        images: number of images in common.
        num_classes: number of classes.
        metrics: the metrics of each run.
        differences: for each run but the first, the 95% intervals of its differences from the first, by metric.
    """

    names: list[str]
    images: int
    num_classes: int
    metrics: list[Metrics]
    differences: list[Intervals]

    def format_table(self) -> str:
        """Formats a Markdown table. Significant differences, whose interval excludes 0, are marked with a star."""
        rows = [["", *self.names], ["---"] * (len(self.names) + 1)]
        for metric, (label, _) in list_overall(self.num_classes).items():
            baseline = self.metrics[0][metric]
            cells = [_format_value(baseline)]
            for values, intervals in zip(self.metrics[1:], self.differences, strict=True):
                difference = values[metric] - baseline
                described = (
                    "" if math.isnan(difference) else f" ({format_difference(difference, intervals[metric], 4)})"
                )
                cells.append(f"{_format_value(values[metric])}{described}")
            rows.append([label, *cells])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def compare(workdirs: Sequence[Path], evaluation: str, resamples: int = 1000) -> Comparison:
    """Compares the evaluations in several workdirs on the images that they have in common.

    The differences are paired: each bootstrap sample contains the same lesions for all runs.

    Args:
        workdirs: two or more.
        evaluation: name of the folder in `WORKDIR/evaluation`.
        resamples: number of bootstrap samples.

    Raises:
        EvaluationError: an evaluation is missing or is of an earlier checkpoint, the evaluations have no image in
            common, or their classes, labels or lesions differ.
        WeightsError: the score of a checkpoint is damaged, so that the best one is not known.
    """
    tables = _read_common_images(workdirs, evaluation)
    _check_facts(workdirs, evaluation)
    baseline, names = tables[0], list_overall(len(tables[0].class_names))

    def subtract_baseline(other: Predictions, rows: np.ndarray) -> Metrics:
        first, second = (compute_metrics(table.take(rows)) for table in (baseline, other))
        return {name: second[name] - first[name] for name in names}

    differences = [
        compute_intervals(
            baseline.lesions, baseline.labels, partial(subtract_baseline, other), resamples, are_differences=True
        )
        for other in tables[1:]
    ]
    metrics = [compute_metrics(table) for table in tables]
    return Comparison(_name_runs(workdirs), len(baseline), len(baseline.class_names), metrics, differences)


def write_curves(workdirs: Sequence[Path], out: Path) -> bool:
    """Writes the learning curves of several runs as a PNG file, if any has curves; cross-validations have none.

    Returns:
        Whether there are curves.

    Raises:
        EvaluationError: the metrics of a run's epochs are damaged.
        OSError: the file cannot be written.
    """
    workdir_of = dict(zip(_name_runs(workdirs), workdirs, strict=True))
    records = {name: read_records(workdir) for name, workdir in workdir_of.items()}
    if not any(records.values()):
        return False
    best_epochs = {name: find_best_epoch(workdir, records[name]) for name, workdir in workdir_of.items()}
    write_atomically(out, encode_png(draw_comparison(records, best_epochs)))
    return True


def _format_value(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def _read_common_images(workdirs: Sequence[Path], evaluation: str) -> list[Predictions]:
    """Reads the predictions of all runs for the images that all have, sorted by image."""
    tables = [read_predictions(w / "evaluation" / evaluation / "predictions.csv") for w in workdirs]
    for workdir, table in zip(workdirs, tables, strict=True):
        if table.class_names != tables[0].class_names:
            raise EvaluationError(f"the classes of {workdir} differ from those of {workdirs[0]}")
    common = set(tables[0].images).intersection(*(table.images for table in tables))
    if not common:
        raise EvaluationError(
            f"the evaluations {evaluation} have no image in common: evaluate the runs on the same folder, with "
            "--data=DIR and --split=all"
        )
    tables = [_select_sorted(table, common) for table in tables]
    for workdir, table in zip(workdirs, tables, strict=True):
        if (table.labels != tables[0].labels).any():
            raise EvaluationError(f"the labels of {workdir} differ from those of {workdirs[0]}")
        if (table.lesions != tables[0].lesions).any():
            raise EvaluationError(
                f"the lesions of {workdir} differ from those of {workdirs[0]}: evaluate both on the same folder"
            )
    return tables


def _check_facts(workdirs: Sequence[Path], evaluation: str) -> None:
    """Checks that the evaluations are of the current checkpoints; a warning if their options differ."""
    options = []
    for workdir in workdirs:
        folder = workdir / "evaluation" / evaluation
        try:
            facts = json.loads((folder / "metrics.json").read_text())
            weights, option = facts["weights"], (facts["views"], facts["correction"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise EvaluationError(f"cannot read {folder / 'metrics.json'}: run mobilenet-jax evaluate again") from error
        options.append(option)
        if len(weights) != 1 or not (workdir / CHECKPOINTS).is_dir():  # the folder holds a cross-validation
            continue
        evaluated = str(weights[0])
        name = parse_checkpoint_name(evaluated) or "latest"
        checkpoint = find_checkpoint(workdir / CHECKPOINTS, name)
        current = checkpoint and describe_checkpoint(name, checkpoint)
        if current and not f"{evaluated},".startswith(f"{current},"):  # the size of the images may follow
            raise EvaluationError(
                f"{folder} is of the {evaluated}, not of the {current}: run mobilenet-jax evaluate again"
            )
    if len(set(options)) > 1:
        described = ", ".join(f"{views} and {correction or 'none'}" for views, correction in options)
        _logger.warning("the evaluations differ in their views and correction: %s", described)


def _select_sorted(table: Predictions, images: set[str]) -> Predictions:
    rows = np.flatnonzero(np.isin(table.images, list(images)))
    return table.take(rows[np.argsort(table.images[rows])])


def _name_runs(workdirs: Sequence[Path]) -> list[str]:
    """Returns the names of the folders, or their paths where two names are equal."""
    names = [workdir.resolve().name for workdir in workdirs]
    return names if len(set(names)) == len(names) else [str(workdir) for workdir in workdirs]
