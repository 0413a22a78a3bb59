"""Post-hoc calibration: temperature scaling and prior correction, fitted to predictions for the validation split."""

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
CALIBRATION_FILE = "calibration.json"  # in a workdir
_FOLDS = 5
_LOG_TEMPERATURE_BOUNDS = (np.log(0.05), np.log(20))
_STRENGTH_BOUNDS = (-1, 3)


@dataclass(frozen=True)
class Calibration:
    """Two corrections of the logits z of a model.

    Attributes:
        temperature: minimizes the NLL of `z / temperature` (Guo et al. 2017); see `fit_calibration` for its penalty.
        prior: `[classes]`, the class frequencies in training; see `compute_log_prior` for classes without images.
        prior_temperature: with `strength`, minimizes the class-balanced NLL of
            `z / prior_temperature - strength * log(prior)`, with the same penalty (logit adjustment, Menon et al. 2021,
            with both factors fitted).
        strength: factor of the log prior.
    """

    temperature: float
    prior: tuple[float, ...]
    prior_temperature: float
    strength: float

    def correct(self, probabilities: np.ndarray, correction: Correction) -> np.ndarray:
        """Corrects probabilities `[n, classes]`."""
        if correction == "temperature":
            return softmax(compute_logits(probabilities) / self.temperature, axis=1)
        shift = self.strength * compute_log_prior(np.array(self.prior))
        return softmax(compute_logits(probabilities) / self.prior_temperature - shift, axis=1)

    def apply(self, predictions: Predictions, correction: Correction) -> Predictions:
        """Corrects the probabilities of a table of predictions."""
        return replace(predictions, probabilities=self.correct(predictions.probabilities, correction))

    def write(self, path: Path, fitted_to: str) -> None:
        """Writes the calibration as JSON, with the description of the probabilities that it was fitted to."""
        write_atomically(path, json.dumps({**asdict(self), "fitted_to": fitted_to}, indent=2) + "\n")


def compute_logits(probabilities: np.ndarray) -> np.ndarray:
    """Returns log probabilities `[n, classes]`; 0 is replaced by the smallest normal float32."""
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))


def compute_log_prior(prior: np.ndarray) -> np.ndarray:
    """Returns the logs of class frequencies `[classes]`.

    A class without training images, which the model has learned not to predict, counts as the most frequent one: the
    prior correction must not favor it.
    """
    return np.log(np.where(prior > 0, prior, prior.max()))


def describe_probabilities(weights: Weights, views: int) -> str:
    """Identifies the probabilities that a calibration is fitted to: a checkpoint and its number of views."""
    return f"{weights.identity}, {views} view{'s' * (views > 1)}"


def read_calibration(path: Path, to_correct: str) -> Calibration:
    """Reads a calibration that `Calibration.write` wrote.

    Args:
        path: the JSON file.
        to_correct: `describe_probabilities` of the probabilities to be corrected.

    Raises:
        EvaluationError: the file is missing or damaged, or the calibration was fitted to other probabilities.
    """
    try:
        content = json.loads(path.read_text())
        fitted_to = content.pop("fitted_to")
        calibration = Calibration(**{**content, "prior": tuple(content["prior"])})
    except FileNotFoundError as error:
        raise EvaluationError(
            f"{path} is missing: run mobilenet-jax evaluate on the validation split first; a run that used all images "
            "for training has no correction"
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EvaluationError(f"cannot read {path} ({error}): run mobilenet-jax evaluate again") from error
    if fitted_to != to_correct:
        raise EvaluationError(
            f"{path} was fitted to {fitted_to}, not to {to_correct}: run mobilenet-jax evaluate on the validation "
            "split first, with the same --checkpoint, --tta and --image-size"
        )
    return calibration


def fit_calibration(validation: Predictions, prior: np.ndarray) -> Calibration:
    """Fits both corrections.

    With n images, `(log(temperature)**2 + strength**2) / (2 * n)` is added to each NLL: standard normal priors. Without
    them, a few images, all classified correctly, would leave the strength undetermined, and the temperature would be
    its lower bound.

    Args:
        validation: predictions for images that the model was not trained on.
        prior: float `[classes]`, the class frequencies in training.
    """
    y, logits, log_prior = validation.labels, compute_logits(validation.probabilities), compute_log_prior(prior)
    counts = np.bincount(y, minlength=len(prior))
    uniform = np.full(len(y), 1 / len(y))
    balanced = (1 / counts[y]) / (counts > 0).sum()

    def compute_nll(z: np.ndarray, weights: np.ndarray) -> float:
        return float((weights * (logsumexp(z, axis=1) - z[np.arange(len(y)), y])).sum())

    def compute_penalty(*parameters: float) -> float:
        return float(np.square(parameters).sum()) / (2 * len(y))

    temperature = minimize_scalar(
        lambda t: compute_nll(logits / np.exp(t), uniform) + compute_penalty(t),
        bounds=_LOG_TEMPERATURE_BOUNDS,
        method="bounded",
    )
    both = minimize(
        lambda x: compute_nll(logits / np.exp(x[0]) - x[1] * log_prior, balanced) + compute_penalty(*x),
        (0.0, 0.0),
        bounds=(_LOG_TEMPERATURE_BOUNDS, _STRENGTH_BOUNDS),
    )
    return Calibration(
        temperature=float(np.exp(temperature.x)),
        prior=tuple(map(float, prior)),
        prior_temperature=float(np.exp(both.x[0])),
        strength=float(both.x[1]),
    )


def cross_fit(validation: Predictions, prior: np.ndarray, correction: Correction) -> Predictions:
    """Corrects the predictions that a correction is fitted to, without optimistic bias.

    The lesions are divided into five folds. Each fold is corrected by a fit to the other four.

    Args:
        validation: predictions for images that the model was not trained on.
        prior: see `fit_calibration`.
        correction: the correction to apply.

    Raises:
        EvaluationError: all images show the same lesion, or there is only one image.
    """
    folds = min(_FOLDS, len(set(validation.lesions)))
    if folds < 2:
        raise EvaluationError("a correction cannot be fitted to a single image, or to images of a single lesion")
    splits = list(GroupKFold(folds).split(validation.images, groups=validation.lesions))
    corrected = [
        fit_calibration(validation.take(others), prior).apply(validation.take(fold), correction)
        for others, fold in splits
    ]
    return concatenate_predictions(corrected).take(np.argsort(np.concatenate([fold for _, fold in splits])))
