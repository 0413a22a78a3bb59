"""Metrics of predictions, computed by scikit-learn."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn import metrics as sk

from mobilenet_jax.evaluation.predictions import Predictions

Metrics = dict[str, float]

CALIBRATION_BINS = 15  # of equal width, as in Guo et al. (2017)
_SENSITIVITIES = (0.90, 0.95)  # the specificity is computed at these
_TOP_K = {"top_2_accuracy": 2, "top_3_accuracy": 3}  # each is 1 for every model with k classes or fewer


class Description(NamedTuple):
    """The label of a metric in tables, and its definition."""

    label: str
    definition: str


# The metrics over all classes, in the order in which reports list them; see `list_overall`.
OVERALL = {
    "balanced_accuracy": Description("balanced accuracy", "mean recall over the classes"),
    "accuracy": Description("accuracy", "fraction of the images whose most probable class is the true class"),
    "top_2_accuracy": Description("top-2 accuracy", "the true class is among the two most probable"),
    "top_3_accuracy": Description("top-3 accuracy", "the true class is among the three most probable"),
    "macro_auc": Description("macro AUC", "mean over the classes of the one-vs-rest area under the ROC curve"),
    "macro_average_precision": Description(
        "macro average precision", "mean over the classes of the one-vs-rest average precision"
    ),
    "nll": Description(
        "NLL", "negative log-likelihood: mean of -log of the true class's probability, in nats; lower is better"
    ),
    "brier": Description(
        "Brier score", "mean squared error of the probabilities, summed over the classes, 0 to 2; lower is better"
    ),
    "ece": Description(
        "calibration error",
        f"expected calibration error (ECE): mean gap between confidence and accuracy over {CALIBRATION_BINS} bins of "
        "confidence; lower is better. Overestimated on few images: the interval corrects for that only approximately, "
        "least of all near 0",
    ),
}


def list_overall(num_classes: int) -> dict[str, Description]:
    """Returns the metrics of `OVERALL` that depend on the model: no top-k accuracy for k classes or fewer."""
    return {name: entry for name, entry in OVERALL.items() if _TOP_K.get(name, 0) < num_classes}


def compute_metrics(predictions: Predictions, malignant: Sequence[str] = ()) -> Metrics:
    """Computes all metrics of a table of predictions.

    Undefined metrics, such as the recall of a class without images, are NaN. Means over classes (`macro_*`,
    `balanced_accuracy`) include the classes for which the metric is defined.

    Args:
        predictions: at least one row.
        malignant: the classes whose probabilities are summed for a binary task, malignant against benign; empty leaves
            that task out.

    Returns:
        Values by name: `accuracy`, `balanced_accuracy`, `top_2_accuracy` and `top_3_accuracy` (if there are more
        classes than that), `macro_auc`, `macro_average_precision`, `nll` (nats), `brier` (0 to 2, summed over the
        classes) and `ece`; and for each class against the rest, and for `malignant`: `NAME.recall`, `.precision`,
        `.specificity`, `.auc`, `.average_precision`, `.specificity_at_90`, `.specificity_at_95` (at that sensitivity in
        percent) and `.images`.
    """
    y, p, names = predictions.labels, predictions.probabilities, predictions.class_names
    predicted = predictions.predicted
    metrics = {
        "accuracy": sk.accuracy_score(y, predicted),
        "balanced_accuracy": compute_balanced_accuracy(y, predicted),
    }
    ranks = np.argsort(-p, axis=1, kind="stable")  # the first one of equals, as in `predicted`
    for name, k in _TOP_K.items():
        if k < len(names):
            metrics[name] = (ranks[:, :k] == y[:, None]).any(1).mean()
    binary = {name: _compute_binary_metrics(y == c, predicted == c, p[:, c]) for c, name in enumerate(names)}
    for metric in ("auc", "average_precision"):
        metrics[f"macro_{metric}"] = _average_defined([values[metric] for values in binary.values()])
    metrics["nll"] = compute_nll(y, p)
    metrics["brier"] = np.square(p - np.eye(len(names))[y]).sum(1).mean()
    metrics["ece"] = compute_calibration_error(predicted == y, p.max(1))
    if malignant:
        is_malignant = np.isin(names, malignant)
        binary["malignant"] = _compute_binary_metrics(
            is_malignant[y], is_malignant[predicted], p[:, is_malignant].sum(1)
        )
    for name, values in binary.items():
        metrics |= {f"{name}.{metric}": value for metric, value in values.items()}
    return {name: float(value) for name, value in metrics.items()}


def compute_key_metrics(predictions: Predictions) -> Metrics:
    """Computes four of the metrics of `compute_metrics`, in a fraction of its time.

    Returns:
        `balanced_accuracy`, `macro_auc`, `nll` and `ece`.
    """
    y, p, predicted = predictions.labels, predictions.probabilities, predictions.predicted
    counts = np.bincount(y, minlength=p.shape[1])
    aucs = [sk.roc_auc_score(y == c, p[:, c]) for c, count in enumerate(counts) if 0 < count < len(y)]
    return {
        "balanced_accuracy": compute_balanced_accuracy(y, predicted),
        "macro_auc": _average_defined(aucs),
        "nll": compute_nll(y, p),
        "ece": compute_calibration_error(predicted == y, p.max(1)),
    }


def compute_nll(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Computes the negative log-likelihood in nats, the mean over the images.

    Unlike scikit-learn's `log_loss`, which replaces probabilities below 2e-16, it counts those down to the smallest
    normal float32.

    Args:
        labels: `[n]` int, the true classes.
        probabilities: `[n, classes]`.
    """
    true = probabilities[np.arange(len(labels)), labels]
    return float(np.log(1 / np.maximum(true, np.finfo(np.float32).tiny)).mean())


def compute_balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Computes the mean recall of the classes that have images.

    Args:
        labels: `[n]` int, the true classes.
        predicted: `[n]` int, the predicted classes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
        warnings.filterwarnings("ignore", "A single label was found")  # images and predictions of one class
        return float(sk.balanced_accuracy_score(labels, predicted))


def _compute_binary_metrics(truth: np.ndarray, predicted: np.ndarray, score: np.ndarray) -> Metrics:
    """Computes the metrics of one class against the rest, without the prefix of their names."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    (true_negative, false_positive), (false_negative, true_positive) = sk.confusion_matrix(
        truth, predicted, labels=(False, True)
    )
    metrics = {
        "recall": _divide(true_positive, true_positive + false_negative),
        "precision": _divide(true_positive, true_positive + false_positive),
        "specificity": _divide(true_negative, true_negative + false_positive),
        "auc": math.nan,
        "average_precision": math.nan,
        **{f"specificity_at_{100 * s:.0f}": math.nan for s in _SENSITIVITIES},
        "images": positives,
    }
    if positives and negatives:
        false_positive_rates, sensitivities, _ = sk.roc_curve(truth, score, drop_intermediate=False)
        metrics["auc"] = sk.auc(false_positive_rates, sensitivities)
        metrics["average_precision"] = sk.average_precision_score(truth, score)
        for s in _SENSITIVITIES:
            metrics[f"specificity_at_{100 * s:.0f}"] = 1 - false_positive_rates[sensitivities >= s].min()
    return metrics


def compute_calibration_error(correct: np.ndarray, confidence: np.ndarray) -> float:
    """Computes the expected calibration error (Guo et al. 2017).

    Args:
        correct: bool `[n]`.
        confidence: float `[n]`, the probability of the predicted class.

    Returns:
        The mean over the bins of |accuracy - mean confidence|, weighted by their numbers of images.
    """
    gaps = np.bincount(assign_bins(confidence), correct - confidence, CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(correct))


def assign_bins(confidence: np.ndarray) -> np.ndarray:
    """Returns the calibration bin of each confidence, int `[n]` from 0 to `CALIBRATION_BINS - 1`."""
    return np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)


def _divide(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _average_defined(values: Sequence[float]) -> float:
    defined = [v for v in values if not math.isnan(v)]
    return float(np.mean(defined)) if defined else math.nan
