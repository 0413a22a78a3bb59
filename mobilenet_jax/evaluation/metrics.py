"""Figures of predictions, by scikit-learn, and their bootstrap intervals."""

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import sklearn
from sklearn import metrics as sk
from tqdm import tqdm

from mobilenet_jax.evaluation.predictions import Predictions

SENSITIVITIES = (0.90, 0.95)
_BINS = 15  # of confidence, as Guo et al. (2017)
_BIASED = "ece"  # larger in every sample drawn than it is: the fewer different images a bin has, the wider its gap

Metrics = dict[str, float]

# The metrics of all classes together: their labels and meanings, in the order in which reports show them.
OVERALL = {
    "balanced_accuracy": ("balanced accuracy", "mean of the classes' recalls"),
    "accuracy": ("accuracy", "share of the images whose likeliest class is right"),
    "top_2_accuracy": ("top-2 accuracy", "the right class is among the two likeliest"),
    "top_3_accuracy": ("top-3 accuracy", "among the three likeliest"),
    "macro_auc": ("macro AUC", "mean of the classes' areas under the ROC curve"),
    "macro_average_precision": ("macro average precision", "mean of the classes' average precisions"),
    "nll": ("NLL", "mean of -log of the right class's probability, in nats; lower is better"),
    "brier": ("Brier score", "mean squared error of the probabilities, summed over classes, 0 to 2; lower is better"),
    "ece": (
        "calibration error",
        "mean gap between confidence and share that is right, 15 bins; lower is better. "
        "Of few images it is too high; the interval allows for that only roughly, least so near 0",
    ),
}


def compute_metrics(predictions: Predictions, malignant: Sequence[str] = ()) -> Metrics:
    """All figures of a table of predictions.

    What is not defined, such as the recall of a class that does not occur, is NaN. Means over classes (`macro_`,
    `balanced_accuracy`) are over those for which the figure is defined.

    Args:
        predictions: with at least one row.
        malignant: the classes whose probabilities are added for malignant against benign; none leaves that out.

    Returns:
        By name: `accuracy`, `balanced_accuracy`, `top_2_accuracy`, `top_3_accuracy`, `macro_auc`,
        `macro_average_precision`, `nll` (nats), `brier` (0 to 2, the sum over classes), `ece`; for each class and for
        `malignant`: `NAME.recall`, `.precision`, `.specificity`, `.auc`, `.average_precision`, `.specificity_at_90` and
        `.specificity_at_95` (percent of sensitivity), and `.images`.
    """
    y, p, names = predictions.labels, predictions.probabilities, predictions.class_names
    predicted = predictions.predicted
    classes = range(len(names))
    one_hot = np.eye(len(names))[y]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
        found = {
            "accuracy": sk.accuracy_score(y, predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(y, predicted),
        }
    for k in (2, 3):
        all_are = k >= len(names)
        found[f"top_{k}_accuracy"] = 1.0 if all_are else sk.top_k_accuracy_score(y, p, k=k, labels=classes)
    binary = {name: _binary(y == c, predicted == c, p[:, c]) for c, name in enumerate(names)}
    found["macro_auc"] = _mean([figures["auc"] for figures in binary.values()])
    found["macro_average_precision"] = _mean([figures["average_precision"] for figures in binary.values()])
    found["nll"] = sk.log_loss(y, p, labels=classes)
    found["brier"] = np.square(p - one_hot).sum(1).mean()
    found["ece"] = compute_calibration_error(predicted == y, p.max(1))
    if malignant:
        which = np.isin(names, malignant)
        binary["malignant"] = _binary(which[y], which[predicted], p[:, which].sum(1))
    for name, figures in binary.items():
        found |= {f"{name}.{figure}": value for figure, value in figures.items()}
    return {name: float(value) for name, value in found.items()}


def _binary(truth: np.ndarray, predicted: np.ndarray, score: np.ndarray) -> Metrics:
    """A class against the rest."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    (true_negative, false_positive), (false_negative, true_positive) = sk.confusion_matrix(
        truth, predicted, labels=(False, True)
    )
    found = {
        "recall": _share(true_positive, true_positive + false_negative),
        "precision": _share(true_positive, true_positive + false_positive),
        "specificity": _share(true_negative, true_negative + false_positive),
        "auc": math.nan,
        "average_precision": sk.average_precision_score(truth, score) if positives else math.nan,
        **{f"specificity_at_{100 * s:.0f}": math.nan for s in SENSITIVITIES},
        "images": positives,
    }
    if positives and negatives:
        false, true, _ = sk.roc_curve(truth, score, drop_intermediate=False)
        found["auc"] = sk.auc(false, true)
        for s in SENSITIVITIES:
            found[f"specificity_at_{100 * s:.0f}"] = 1 - false[true >= s].min()
    return found


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def compute_calibration_error(correct: np.ndarray, confidence: np.ndarray) -> float:
    """Expected calibration error (Guo et al. 2017): 15 bins of confidence, of equal width.

    Args:
        correct: bool `[n]`.
        confidence: float `[n]`, the highest probability.

    Returns:
        The mean over the bins of |share of correct - mean confidence|, weighted by their numbers of examples.
    """
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, correct - confidence, _BINS)
    return float(np.abs(gaps).sum() / len(correct))


def bootstrap(
    lesions: np.ndarray, statistic: Callable[[np.ndarray], Metrics], resamples: int, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95% intervals, from data sets in which lesions are drawn with replacement.

    Images of a lesion stay together: they are no independent observations. Intervals are percentiles of the drawn
    figures; for `ece`, and differences of it, whose draws are all too high, of their distances from the figure, taken
    the other way (the basic bootstrap, Davison and Hinkley 1997, 5.2). Near 0 those too are rough.

    Args:
        lesions: `[n]` str.
        statistic: of the rows that are drawn, given as positions; by name, or `GROUP.name`.
        resamples: how many data sets are drawn.
        seed: the same seed draws the same.

    Returns:
        By name of the figure (low, high); NaN for what is undefined in all of them.
    """
    rng = np.random.default_rng(seed)
    _, lesion_of = np.unique(lesions, return_inverse=True)
    by_lesion = np.split(np.argsort(lesion_of, kind="stable"), np.cumsum(np.bincount(lesion_of))[:-1])
    drawn: list[Metrics] = []
    with sklearn.config_context(skip_parameter_validation=True, assume_finite=True):  # or most of the time goes there
        for _ in tqdm(range(resamples), desc="bootstrap", unit=" samples", disable=None, leave=False):
            chosen = rng.integers(len(by_lesion), size=len(by_lesion))
            drawn.append(statistic(np.concatenate([by_lesion[i] for i in chosen])))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered")
        values = {name: np.array([d[name] for d in drawn]) for name in drawn[0]}
        found = {name: tuple(np.nanpercentile(v, (2.5, 97.5)).tolist()) for name, v in values.items()}
    biased = [name for name in found if name.rpartition(".")[2] == _BIASED]
    whole = statistic(np.arange(len(lesions))) if biased else {}
    for name in biased:
        low, high = (2 * whole[name] - bound for bound in reversed(found[name]))
        least = 0 if (values[name] >= 0).all() else -math.inf
        found[name] = (max(low, least), max(high, least))
    return found


def _mean(values: Sequence[float]) -> float:
    defined = [v for v in values if not math.isnan(v)]
    return float(np.mean(defined)) if defined else math.nan
