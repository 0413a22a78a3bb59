"""What can be mended after training, from the predictions for validation alone: temperature and prior."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp, softmax
from sklearn.model_selection import GroupKFold

from input_pipeline.atomic_files import write_atomically
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.predictions import Predictions, concatenate_predictions
from mobilenet_jax.weights.weights import Weights

Correction = Literal["temperature", "prior"]
FILE = "calibration.json"  # in a workdir
_FOLDS = 5


@dataclass(frozen=True)
class Calibration:
    """Corrections of logits z.

    Attributes:
        temperature: `z / temperature` has the least NLL (Guo et al. 2017).
        prior: `[classes]`, the shares of the classes in training.
        prior_temperature: with the next, `z / prior_temperature - strength log prior` has the least NLL where all
            classes weigh the same (logit adjustment, Menon et al. 2021, with both factors fitted).
        strength: how far the prior is taken away.
    """

    temperature: float
    prior: tuple[float, ...]
    prior_temperature: float
    strength: float

    def correct(self, probabilities: np.ndarray, correction: Correction) -> np.ndarray:
        """Probabilities `[n, classes]`, corrected."""
        if correction == "temperature":
            return softmax(compute_logits(probabilities) / self.temperature, axis=1)
        shift = self.strength * np.log(np.array(self.prior))
        return softmax(compute_logits(probabilities) / self.prior_temperature - shift, axis=1)

    def apply(self, predictions: Predictions, correction: Correction) -> Predictions:
        """The same of a table of predictions."""
        return replace(predictions, probabilities=self.correct(predictions.probabilities, correction))

    def write(self, path: Path, fitted_to: str) -> None:
        """Writes it as JSON, with whose probabilities it was fitted to, see `describe_probabilities`."""
        write_atomically(path, json.dumps({**asdict(self), "fitted_to": fitted_to}, indent=2) + "\n")


def compute_logits(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms `[n, classes]`; of 0, that of the least number float32 has."""
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))


def describe_probabilities(weights: Weights, views: int) -> str:
    """Which probabilities are meant: those of a checkpoint, as the mean of so many views."""
    return f"{weights.identity}, {views} view{'s' * (views > 1)}"


def read_calibration(path: Path, to_correct: str) -> Calibration:
    """Reads what `write` wrote.

    Raises:
        EvaluationError: it is not there or damaged, or was fitted to other probabilities than are to be corrected.
    """
    try:
        kept = json.loads(path.read_text())
        fitted_to = kept.pop("fitted_to")
        found = Calibration(**{**kept, "prior": tuple(kept["prior"])})
    except FileNotFoundError as error:
        raise EvaluationError(f"{path} is missing: run mobilenet-jax evaluate on the validation split first") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EvaluationError(f"cannot read {path} ({error}): run mobilenet-jax evaluate again") from error
    if fitted_to != to_correct:
        raise EvaluationError(
            f"{path} was fitted to {fitted_to}, not to {to_correct}: run mobilenet-jax evaluate on the validation "
            "split first, with the same --checkpoint and --tta"
        )
    return found


def fit_calibration(validation: Predictions, prior: np.ndarray) -> Calibration:
    """Fits both corrections.

    Args:
        validation: predictions for images that were not trained on.
        prior: float `[classes]`, the shares of the classes in training, none of them 0.
    """
    y, logits, log_prior = validation.labels, compute_logits(validation.probabilities), np.log(prior)
    counts = np.bincount(y, minlength=len(prior))
    balanced = (1 / counts[y]) / (counts > 0).sum()

    def loss(z: np.ndarray, weights: np.ndarray) -> float:
        return float((weights * (logsumexp(z, axis=1) - z[np.arange(len(y)), y])).sum())

    even = np.full(len(y), 1 / len(y))
    temperature = minimize_scalar(
        lambda t: loss(logits / np.exp(t), even), bounds=(np.log(0.05), np.log(20)), method="bounded"
    )
    both = minimize(
        lambda x: loss(logits / np.exp(x[0]) - x[1] * log_prior, balanced),
        (0.0, 1.0),
        bounds=((np.log(0.05), np.log(20)), (-1, 3)),
    )
    return Calibration(
        float(np.exp(temperature.x)), tuple(map(float, prior)), float(np.exp(both.x[0])), float(both.x[1])
    )


def cross_fit(validation: Predictions, prior: np.ndarray, correction: Correction) -> Predictions:
    """Corrects the validation images themselves, each by what was fitted to the others' lesions, in five folds.

    Figures of these are not flattered by the fit.

    Raises:
        EvaluationError: all images are of one lesion.
    """
    folds = min(_FOLDS, len(set(validation.lesions)))
    if folds < 2:
        raise EvaluationError("a correction cannot be fitted to images of a single lesion")
    splits = list(GroupKFold(folds).split(validation.images, groups=validation.lesions))
    corrected = [
        fit_calibration(validation.take(others), prior).apply(validation.take(fold), correction)
        for others, fold in splits
    ]
    return concatenate_predictions(corrected).take(np.argsort(np.concatenate([fold for _, fold in splits])))
