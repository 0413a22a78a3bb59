"""The difference of two sets of predictions for the same images, with paired intervals."""

import numpy as np

from mobilenet_jax.evaluation.bootstrap import compute_intervals
from mobilenet_jax.evaluation.metrics import Metrics, compute_key_metrics
from mobilenet_jax.evaluation.predictions import Predictions


def print_differences(first: Predictions, second: Predictions, names: tuple[str, str], resamples: int = 1000) -> None:
    """Prints the metrics of both, and the differences with 95% bootstrap intervals by lesion."""
    assert first.images.tolist() == second.images.tolist(), "the same images in the same order"

    def compute(rows: np.ndarray) -> Metrics:
        before, after = (compute_key_metrics(table.take(rows)) for table in (first, second))
        return {name: after[name] - before[name] for name in before}

    values = [compute_key_metrics(table) for table in (first, second)]
    intervals = compute_intervals(first.lesions, first.labels, compute, resamples, are_differences=True)
    changes, agreement = (
        np.abs(first.probabilities - second.probabilities),
        (first.predicted == second.predicted).mean(),
    )
    print(f"{len(first):,} images. The same class for {agreement:.1%}; probabilities differ by {changes.mean():.4f} on")
    print(f"average, and by at most {changes.max():.2f}.\n")
    print(f"| metric | {names[0]} | {names[1]} | difference |\n|---|---|---|---|")
    for name, (low, high) in intervals.items():
        before, after = (metrics[name] for metrics in values)
        print(f"| {name} | {before:.3f} | {after:.3f} | {after - before:+.3f} [{low:+.3f}, {high:+.3f}] |")
