"""Evaluates a model, or the models of a cross-validation, on labeled images.

In a cross-validation, each image of the validation split is classified by the model that was not trained on its lesion.
Images of other splits are classified by all models, whose probabilities are averaged.

On the validation split, both corrections of the probabilities are fitted, and those of a single run are stored in its
workdir. A correction that is applied to the validation split itself is cross-fitted, so that its metrics are not
optimistic. On other splits the stored correction is applied.
"""

import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, concatenate_examples, normalize_name
from input_pipeline.sources.registry import SOURCES
from input_pipeline.splits import SUBSETS, format_split, hash_split
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.bootstrap import Intervals, compute_intervals
from mobilenet_jax.evaluation.calibration import (
    CALIBRATION_FILE,
    Calibration,
    Correction,
    cross_fit,
    describe_probabilities,
    fit_calibration,
    read_calibration,
)
from mobilenet_jax.evaluation.metrics import Metrics, compute_metrics
from mobilenet_jax.evaluation.predictions import Predictions, concatenate_predictions
from mobilenet_jax.evaluation.trained_run import EvaluatedModel
from mobilenet_jax.inference.classifier import Classifier
from mobilenet_jax.inference.predict_files import classify_files
from mobilenet_jax.weights.hub import strip_folder

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Predictions and metrics of one model, or of those of a cross-validation, on a set of images.

    Attributes:
        runs: the models.
        predictions: the probabilities of each image.
        paths: `[n]` str, the image files.
        metrics: see `compute_metrics`.
        intervals: 95% intervals by the name of the metric; empty without bootstrap.
        facts: models, images, options and environment, as in `metrics.json`. `lesions` and `lesions_trained_on` are
            None if the data do not specify which images show the same lesion; `lesions_trained_on` also if the
            training lesions are not known, or not comparable; then `images_trained_on` is the number of images that
            are in the training set, if these are known and comparable.
    """

    runs: Sequence[EvaluatedModel]
    predictions: Predictions
    paths: np.ndarray
    metrics: Metrics
    intervals: Intervals
    facts: dict[str, Any]


def evaluate(
    runs: Sequence[EvaluatedModel],
    *,
    data: str | None = None,
    source: str | None = None,
    split: str | None = None,
    views: int = 1,
    correction: Correction | None = None,
    malignant: Sequence[str] = (),
    resamples: int = 1000,
    batch_size: int = 64,
) -> Evaluation:
    """Predicts a split, and computes its metrics and their intervals.

    Args:
        runs: the run, the bare weights, or the folds of a cross-validation.
        data: see `EvaluatedModel.read_examples`.
        source: see `EvaluatedModel.read_examples`.
        split: see `EvaluatedModel.read_examples`; None is `"validation"` for runs and `"all"` for bare weights.
        views: number of views per image, see `Classifier`.
        correction: the correction of the probabilities; None applies none.
        malignant: see `compute_metrics`.
        resamples: number of bootstrap samples; 0 computes no intervals.
        batch_size: images per batch.

    Raises:
        EvaluationError, WeightsError, DataError: the arguments contradict each other, or a file cannot be read.
    """
    start, split = time.perf_counter(), split or runs[0].default_split
    _check_arguments(runs, split, malignant)
    folder, layout = runs[0].locate_images(data, source)
    stored = _read_stored_calibration(runs, split, views, correction)
    parts = [_read_examples(run, data, source, split) for run in runs]
    examples = _concatenate_folds(runs, parts) if split == "validation" else parts[0]
    outputs = [predict_examples(run, part, views, batch_size) for run, part in zip(runs, parts, strict=True)]
    if split == "validation":
        predictions = _calibrate(runs, concatenate_predictions(outputs), views, correction)
    else:
        predictions = _average_predictions(outputs)
        predictions = stored.apply(predictions, correction) if stored and correction else predictions
    metrics, intervals = compute_metrics(predictions, malignant), {}
    if resamples:
        intervals = compute_intervals(
            predictions.lesions,
            predictions.labels,
            lambda rows: compute_metrics(predictions.take(rows), malignant),
            resamples,
        )
    facts = {
        "workdirs": [strip_folder(run.path) for run in runs],  # reports are passed on
        "weights": [run.weights.identity for run in runs],
        "source": layout,
        "data": strip_folder(folder) if folder else None,
        "split": split,
        "split_hash": hash_split(format_split(examples.take(np.zeros(0, int)), examples)),
        "images": len(examples),
        "lesions": len(set(examples.lesions)) if predictions.lesions_known else None,
        **_count_trained_on(runs, parts, is_comparable=_has_comparable_names(runs, split, folder, layout)),
        "views": views,
        "correction": correction,
        "malignant": list(malignant),
        "resamples": resamples,
        "seconds": round(time.perf_counter() - start, 1),
        **_describe_environment(),
    }
    return Evaluation(runs, predictions, examples.paths, metrics, intervals, facts)


def name_evaluation(
    split: str,
    views: int,
    correction: Correction | None,
    *,
    data: str = "",
    checkpoint: str = "",
    size: int | None = None,
) -> str:
    """Returns the name of an evaluation's folder: the split, and those of the other arguments that are not the default.

    Args:
        split: see `evaluate`.
        views: see `evaluate`.
        correction: see `evaluate`.
        data: the name of the folder of the images, if it is not the default one.
        checkpoint: the name of the checkpoint, if it is not the default one.
        size: height and width of the images, if they are not those of training.
    """
    pixels, flips = f"{size}px" if size else "", f"tta{views}" if views > 1 else ""
    options = (split.replace(":", "-"), data, checkpoint, pixels, flips, correction)
    return "-".join(filter(None, options))


def predict_examples(run: EvaluatedModel, examples: Examples, views: int = 1, batch_size: int = 64) -> Predictions:
    """Classifies labeled images with the model of a run.

    Raises:
        DataError: an image cannot be read.
    """
    probabilities = []
    for batch in classify_files(Classifier(run.weights, views), examples.paths, batch_size):
        if batch.faults:
            raise DataError(batch.faults[0])
        probabilities.append(batch.probabilities)
    return Predictions(
        examples.names, examples.lesions, examples.labels, np.concatenate(probabilities), run.class_names
    )


def _read_examples(run: EvaluatedModel, data: str | None, source: str | None, split: str) -> Examples:
    """Reads the images to evaluate; errors about a subset that is not in `data` suggest `--split=all`."""
    try:
        return run.read_examples(data, source, split)
    except DataError as error:
        if split not in SUBSETS or run.locate_images(data, source) == run.locate_images(None, None):
            raise
        raise DataError(
            f"{error}; --data specifies the new location of the run's own images (their table, if data.source is csv); "
            "--split=all evaluates all images of another folder",
            error.details,
        ) from error


def _check_arguments(runs: Sequence[EvaluatedModel], split: str, malignant: Sequence[str]) -> None:
    if split == "training" and len(runs) > 1:
        raise EvaluationError("the folds of a cross-validation were trained on different images: evaluate one run")
    names = runs[0].class_names
    for run in runs:
        if run.class_names != names:
            raise EvaluationError(
                f"the classes of {run.path} differ from those of {runs[0].path}: evaluate models of the same classes"
            )
    if unknown := set(malignant) - set(names):
        raise EvaluationError(f"--malignant names {', '.join(unknown)}; the classes are {', '.join(names)}")
    if "malignant" in names and malignant and list(malignant) != ["malignant"]:
        raise EvaluationError(
            "the metrics of the class malignant would have the same names as those of --malignant: rename the class, "
            "or use --malignant=malignant"
        )


def _read_stored_calibration(
    runs: Sequence[EvaluatedModel], split: str, views: int, correction: Correction | None
) -> Calibration | None:
    """Reads the calibration that `correction` requires. Raises before any work is done if the split does not allow it.

    Returns None if nothing is to be corrected, or if the calibration is fitted to the split itself.
    """
    if correction and any(run.prior is None for run in runs):
        raise EvaluationError(
            f"--correct requires the workdir of a run: {runs[0].path} has no validation split that a correction could "
            "be fitted to"
        )
    if split == "validation" or not correction:
        return None
    if len(runs) > 1:
        raise EvaluationError(
            "--correct requires a single run or the validation split: the mean of several models has no calibration"
        )
    return read_calibration(Path(runs[0].path) / CALIBRATION_FILE, describe_probabilities(runs[0].weights, views))


def _calibrate(
    runs: Sequence[EvaluatedModel], predictions: Predictions, views: int, correction: Correction | None
) -> Predictions:
    """Fits both corrections to the validation split, stores those of a single run, and applies the requested one."""
    prior = np.mean([run.prior for run in runs if run.prior is not None], axis=0)
    if len(runs) == 1:
        fitted_to = describe_probabilities(runs[0].weights, views)
        try:
            fit_calibration(predictions, prior).write(Path(runs[0].path) / CALIBRATION_FILE, fitted_to)
        except OSError as error:  # the workdir of someone else
            _logger.warning("the corrections of the probabilities are not stored: %s", error)
    return cross_fit(predictions, prior, correction) if correction else predictions


def _average_predictions(outputs: Sequence[Predictions]) -> Predictions:
    """Averages the probabilities of several models for the same images.

    Raises:
        EvaluationError: the images or their labels differ.
    """
    first = outputs[0]
    for output in outputs[1:]:
        if not (np.array_equal(output.images, first.images) and np.array_equal(output.labels, first.labels)):
            raise EvaluationError("the runs read different images: specify the same ones with --data and --source")
    return replace(outputs[0], probabilities=np.mean([output.probabilities for output in outputs], axis=0))


def _concatenate_folds(runs: Sequence[EvaluatedModel], parts: Sequence[Examples]) -> Examples:
    """Concatenates the validation splits of the runs, which must not have images in common."""
    examples = parts[0]
    for run, part in zip(runs[1:], parts[1:], strict=True):
        if shared := _intersect(examples.names, part.names):  # the folders may be copies of one data set
            raise EvaluationError(
                f"{run.path} is not a separate fold: {min(shared)} is in the validation split of another run too"
            )
        examples = concatenate_examples(examples, part)
    return examples


def _has_comparable_names(runs: Sequence[EvaluatedModel], split: str, folder: str, layout: str) -> bool:
    """Returns whether equal names of images or lesions stand for the same ones in the training set and in `folder`.

    In other data of one's own, such as tables that number their lesions, they need not.
    """
    if split in SUBSETS or (SOURCES[layout].is_isic and all(run.is_isic for run in runs)):
        return True
    return all(
        run.images is not None and Path(run.locate_images(None, None)[0]).resolve() == Path(folder).resolve()
        for run in runs
    )


def _count_trained_on(
    runs: Sequence[EvaluatedModel], parts: Sequence[Examples], *, is_comparable: bool
) -> dict[str, int | None]:
    """Counts the evaluated lesions that are in the training set, or the images where lesions are unknown.

    Returns:
        `lesions_trained_on` and `images_trained_on`, at least one of which is None; both if names are not comparable,
        or the training images are not known.
    """
    pairs = list(zip(runs, parts, strict=True))
    lesions = images = None
    if is_comparable and all(run.lesions is not None and part.lesions_known for run, part in pairs):
        lesions = len(set().union(*(_intersect(part.lesions, run.lesions or ()) for run, part in pairs)))
    elif is_comparable and all(run.images is not None for run in runs):
        images = len(set().union(*(_intersect(part.names, run.images or ()) for run, part in pairs)))
    return {"lesions_trained_on": lesions, "images_trained_on": images}


def _intersect(names: Iterable[str], others: Iterable[str]) -> set[str]:
    """Returns the names in both, normalized."""
    return set(map(normalize_name, names)) & set(map(normalize_name, others))


def _describe_environment() -> dict[str, Any]:
    """Returns the facts about software and hardware."""
    packages = ("jax", "flax", "numpy", "scikit-learn")
    root, commit = Path(__file__).parents[2], None
    git = shutil.which("git")
    if git and (root / ".git").exists():  # an installed package may lie in a user's own repository
        head = subprocess.run([git, "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        commit = head.stdout.strip() or None
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "hardware": f"{jax.device_count()} {jax.devices()[0].device_kind} device(s), {os.cpu_count()} CPU cores",
        "commit": commit,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
