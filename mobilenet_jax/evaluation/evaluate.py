"""`mobilenet-jax evaluate`: trained models on labeled images, to figures that say how far they can be trusted."""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, concatenate_examples
from input_pipeline.image_reader import read_images
from input_pipeline.splits import format_split, hash_split
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.calibration import (
    FILE,
    Calibration,
    Correction,
    cross_fit,
    describe_probabilities,
    fit_calibration,
    read_calibration,
)
from mobilenet_jax.evaluation.metrics import Metrics, bootstrap, compute_metrics
from mobilenet_jax.evaluation.predictions import Predictions, concatenate_predictions
from mobilenet_jax.evaluation.trained_run import Trained
from mobilenet_jax.inference.classifier import Classifier


@dataclass(frozen=True)
class Evaluation:
    """What is known of one model, or of those of a cross-validation, on a set of images.

    Attributes:
        runs: the models.
        predictions: for each image.
        paths: `[n]` str, where the images are.
        metrics: see `compute_metrics`.
        intervals: 95%, by the names of the metrics; empty if none were asked for.
        facts: what was evaluated, on what, how and when, as `metrics.json` has it. `lesions` and `lesions_trained_on`
            are None where it is not known which images show the same lesion.
    """

    runs: Sequence[Trained]
    predictions: Predictions
    paths: np.ndarray
    metrics: Metrics
    intervals: dict[str, tuple[float, float]]
    facts: dict[str, Any]


def evaluate(
    runs: Sequence[Trained],
    *,
    data: str | None = None,
    source: str | None = None,
    split: str = "validation",
    views: int = 1,
    correction: Correction | None = None,
    malignant: Sequence[str] = (),
    resamples: int = 1000,
    batch_size: int = 64,
) -> Evaluation:
    """Evaluates one run's model, or those of a cross-validation.

    Of several, an image of `validation` is classified by the one that was not trained on its lesion; images of other
    splits by all, whose probabilities are averaged.

    On validation, both corrections are fitted and kept in the workdir of a single run. Applied to validation itself, a
    correction is fitted to the lesions of four of five folds, for the fifth: its figures are not flattered by the fit.
    Applied to other images, it is the one that was kept.

    Args:
        runs: whose models.
        data: see `Trained.examples`.
        source: see there.
        split: see there.
        views: see `Classifier`.
        correction: of the probabilities.
        malignant: see `compute_metrics`.
        resamples: of the bootstrap; 0 leaves the intervals out.
        batch_size: images at once.

    Raises:
        EvaluationError, WeightsError, DataError: what is asked for does not fit together, or cannot be read.
    """
    start = time.perf_counter()
    _check_classes(runs, malignant)
    kept = _kept_calibration(runs, split, views, correction)
    parts = [run.examples(data, source, split) for run in runs]
    found = [predict(run, part, views, batch_size) for run, part in zip(runs, parts, strict=True)]
    out_of_fold = split == "validation" and len(runs) > 1
    examples, plain = _out_of_fold(runs, parts, found) if out_of_fold else (parts[0], _averaged(found))
    if split == "validation":
        predictions = _corrected_validation(runs, plain, views, correction)
    else:
        predictions = kept.apply(plain, correction) if kept and correction else plain
    metrics, intervals = compute_metrics(predictions, malignant), {}
    if resamples:
        intervals = bootstrap(
            predictions.lesions, lambda rows: compute_metrics(predictions.take(rows), malignant), resamples
        )
    trained_on = set().union(*(set(part.lesions) & run.lesions for run, part in zip(runs, parts, strict=True)))
    facts = {
        "workdirs": [str(run.workdir) for run in runs],
        "weights": [run.weights.identity for run in runs],
        "source": source or runs[0].config["data"]["source"],
        "data": Path(data or runs[0].config["data"]["dir"] or "").name or None,
        "split": split,
        "split_hash": hash_split(format_split(examples.take(np.zeros(0, int)), examples)),
        "images": len(predictions),
        "lesions": len(set(predictions.lesions)) if predictions.lesions_known else None,
        "lesions_trained_on": len(trained_on) if predictions.lesions_known else None,
        "views": views,
        "correction": correction,
        "malignant": list(malignant),
        "resamples": resamples,
        "seconds": round(time.perf_counter() - start, 1),
        **_surroundings(),
    }
    return Evaluation(runs, predictions, examples.paths, metrics, intervals, facts)


def _check_classes(runs: Sequence[Trained], malignant: Sequence[str]) -> None:
    names = runs[0].class_names
    for run in runs:
        if run.class_names != names:
            raise EvaluationError(f"{run.workdir} has the classes {run.class_names}, {runs[0].workdir} has {names}")
    if unknown := set(malignant) - set(names):
        raise EvaluationError(f"--malignant names {', '.join(unknown)}; the classes are {', '.join(names)}")


def _kept_calibration(
    runs: Sequence[Trained], split: str, views: int, correction: Correction | None
) -> Calibration | None:
    """What `--correct` needs of the workdir. Says before any work is done what cannot be."""
    workdir, one = runs[0].workdir, len(runs) == 1
    if split == "training" and not one:
        raise EvaluationError("the folds of a cross-validation were trained on different images: evaluate one run")
    if split == "validation":
        if one and not os.access(workdir, os.W_OK):
            raise EvaluationError(f"{workdir} cannot be written, where the corrections fitted on validation go")
        return None
    if not correction:
        return None
    if not one:
        raise EvaluationError("--correct is of one run's probabilities, or of out-of-fold ones")
    return read_calibration(workdir / FILE, describe_probabilities(runs[0].weights, views))


def _corrected_validation(
    runs: Sequence[Trained], predictions: Predictions, views: int, correction: Correction | None
) -> Predictions:
    """Corrected if asked for; what is fitted to the validation split of a single run is kept in its workdir."""
    prior = np.mean([run.prior for run in runs], axis=0)
    if len(runs) == 1:
        fit_calibration(predictions, prior).write(
            runs[0].workdir / FILE, describe_probabilities(runs[0].weights, views)
        )
    return cross_fit(predictions, prior, correction) if correction else predictions


def _averaged(found: Sequence[Predictions]) -> Predictions:
    return replace(found[0], probabilities=np.mean([part.probabilities for part in found], axis=0))


def _out_of_fold(
    runs: Sequence[Trained], parts: Sequence[Examples], found: Sequence[Predictions]
) -> tuple[Examples, Predictions]:
    """Each image as the run says that held it out."""
    examples = parts[0]
    for run, part in zip(runs[1:], parts[1:], strict=True):
        if twice := set(examples.paths) & set(part.paths):
            raise EvaluationError(f"{run.workdir} is no other fold: {min(twice)} is held out by another run too")
        examples = concatenate_examples(examples, part)
    return examples, concatenate_predictions(found)


def predict(run: Trained, examples: Examples, views: int = 1, batch_size: int = 64) -> Predictions:
    """What a run's model says of labeled images.

    Raises:
        DataError: an image cannot be read.
    """
    classifier = Classifier(run.weights, views)
    rows = []
    with tqdm(desc="predicting", total=len(examples), unit=" images", disable=None, leave=False) as bar:
        for batch in read_images(examples.paths, classifier.size, classifier.whole(batch_size)):
            if batch.faults:
                raise DataError(batch.faults[0])
            rows.append(classifier.probabilities(batch.pixels, batch_size))
            bar.update(len(batch.positions))
    images = np.array([Path(path).stem for path in examples.paths])
    return Predictions(images, examples.lesions, examples.labels, np.concatenate(rows), run.class_names)


def _surroundings() -> dict[str, Any]:
    """With what figures were computed."""
    packages = ("jax", "flax", "numpy", "scikit-learn")
    root, commit = Path(__file__).parents[2], None
    if (root / ".git").exists() and shutil.which("git"):  # not the repository of somebody who installed the package
        git = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        commit = git.stdout.strip() or None
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "hardware": f"{jax.device_count()} {jax.devices()[0].device_kind} device(s), {os.cpu_count()} CPU cores",
        "commit": commit,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
