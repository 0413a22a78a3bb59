"""From the outcomes of batches to the figures of an epoch."""

import warnings
from collections.abc import Sequence

import jax
import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from mobilenet_jax.training.step import BatchResult


def compute_epoch_metrics(outcomes: Sequence[BatchResult]) -> dict[str, float]:
    """Figures over all examples of some batches, each example counted once and what fills up left out.

    Returns:
        `loss` (mean cross-entropy, nats), `accuracy`, and `balanced_accuracy`: the mean of the recalls of the
        classes that occur, the metric of the ISIC challenge.
    """
    loss, predicted, label, mask = (
        np.concatenate([np.asarray(jax.device_get(getattr(o, field))) for o in outcomes])
        for field in ("loss", "predicted", "label", "mask")
    )
    label, predicted = label[mask], predicted[mask]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
        balanced = balanced_accuracy_score(label, predicted)
    return {
        "loss": float(loss[mask].mean(dtype=np.float64)),
        "accuracy": float(accuracy_score(label, predicted)),
        "balanced_accuracy": float(balanced),
    }
