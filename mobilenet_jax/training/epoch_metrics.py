"""Metrics of one epoch from the results of its batches."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import accuracy_score

from mobilenet_jax.evaluation.metrics import compute_balanced_accuracy
from mobilenet_jax.training.step import BatchResult


def compute_epoch_metrics(results: Sequence[BatchResult]) -> dict[str, float]:
    """Computes metrics over all examples of some batches: each example counts once, padding not at all.

    Args:
        results: the results of the batches, at least one.

    Returns:
        `loss` (mean cross-entropy in nats), `accuracy`, and `balanced_accuracy` (the mean recall of the classes that
        occur, which is the metric of the ISIC challenge).
    """
    loss, predicted, label, mask = (
        np.concatenate([np.asarray(getattr(result, field)) for result in results])
        for field in ("loss", "predicted", "label", "mask")
    )
    label, predicted = label[mask], predicted[mask]
    return {
        "loss": float(loss[mask].mean(dtype=np.float64)),
        "accuracy": float(accuracy_score(label, predicted)),
        "balanced_accuracy": compute_balanced_accuracy(label, predicted),
    }
