"""Bootstrap confidence intervals. Lesions are resampled, because images of one lesion are not independent."""

import math
from collections.abc import Callable

import numpy as np
import sklearn
from tqdm import tqdm

from mobilenet_jax.evaluation.metrics import Metrics

Intervals = dict[str, tuple[float, float]]

# The calibration error of a bootstrap sample is larger than that of the data set: a bin with fewer distinct images has
# a wider gap.
_BIASED_METRIC = "ece"
_PERCENTILES = (2.5, 97.5)
_MAX_UNDEFINED = 0.5  # of the samples; a metric that is undefined in more has no interval
_MEANS_OVER_CLASSES = ("balanced_accuracy", "macro_auc", "macro_average_precision")


def compute_intervals(
    lesions: np.ndarray,
    labels: np.ndarray,
    statistic: Callable[[np.ndarray], Metrics],
    resamples: int,
    *,
    are_differences: bool = False,
) -> Intervals:
    """Computes 95% bootstrap intervals from data sets whose lesions are sampled with replacement.

    Intervals are percentiles of the metrics of the samples. The `ece` of samples is biased upwards on average, and
    differences of it are biased either way, so their intervals are percentiles of the deviations from the metric of the
    data set, reflected at it (the basic bootstrap, Davison and Hinkley 1997, 5.2). Near 0 these are approximate too.

    A sample may lack a class of one or a few lesions. Its means over classes would be those of the other classes, so
    they are left out. If a metric is undefined in most of the samples, the others do not represent it: it has no
    interval.

    Args:
        lesions: `[n]` str, the lesion of each row.
        labels: `[n]` int, its class.
        statistic: computes metrics, by `name` or `GROUP.name`, from the indices of the sampled rows.
        resamples: number of bootstrap samples.
        are_differences: whether the metrics are differences, which may be negative. An interval of `ece` itself lies
            between 0 and 1.

    Returns:
        `(low, high)` by the name of the metric; NaN for metrics that are undefined in more than half of the samples,
        and for all metrics of a single lesion, whose samples are all the same.
    """
    samples = _compute_samples(lesions, labels, statistic, resamples)
    intervals: Intervals = {name: (math.nan, math.nan) for name in samples}
    for name, values in samples.items():
        if np.isnan(values).mean() <= _MAX_UNDEFINED and (lesions != lesions[0]).any():
            low, high = np.nanpercentile(values, _PERCENTILES)
            intervals[name] = float(low), float(high)
    biased = [name for name in intervals if name.rpartition(".")[2] == _BIASED_METRIC]
    estimate = statistic(np.arange(len(lesions))) if biased else {}
    for name in biased:
        low, high = (2 * estimate[name] - bound for bound in reversed(intervals[name]))
        bounds = (-1, 1) if are_differences else (0, 1)
        low, high = np.clip((low, high), *bounds)
        intervals[name] = float(low), float(high)
    return intervals


def format_difference(value: float, interval: tuple[float, float], digits: int) -> str:
    """Formats a difference with its interval, and a star if the interval excludes 0, such as `+0.02 [+0.01, +0.03] *`.

    Args:
        value: the difference.
        interval: its interval, see `compute_intervals`; left out if it is undefined.
        digits: number of decimal places.
    """
    low, high = interval
    if math.isnan(low):
        return f"{value:+.{digits}f}"
    star = " *" if low > 0 or high < 0 else ""
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]{star}"


def _compute_samples(
    lesions: np.ndarray, labels: np.ndarray, statistic: Callable[[np.ndarray], Metrics], resamples: int
) -> dict[str, np.ndarray]:
    """Returns the metrics of all bootstrap samples, the same ones each time, float `[resamples]` by name."""
    rng, num_classes = np.random.default_rng(0), len(np.unique(labels))
    _, lesion_of_row = np.unique(lesions, return_inverse=True)
    rows_of_lesion = np.split(np.argsort(lesion_of_row, kind="stable"), np.cumsum(np.bincount(lesion_of_row))[:-1])
    samples: list[Metrics] = []
    # Most of the time would go into scikit-learn's validation of its arguments.
    with sklearn.config_context(skip_parameter_validation=True, assume_finite=True):
        for _ in tqdm(range(resamples), desc="bootstrap", unit=" samples", disable=None, leave=False):
            sampled = rng.integers(len(rows_of_lesion), size=len(rows_of_lesion))
            rows = np.concatenate([rows_of_lesion[i] for i in sampled])
            metrics = statistic(rows)
            if len(np.unique(labels[rows])) < num_classes:
                metrics |= {name: math.nan for name in metrics if name.rpartition(".")[2] in _MEANS_OVER_CLASSES}
            samples.append(metrics)
    return {name: np.array([metrics[name] for metrics in samples]) for name in samples[0]}
