"""Synthetic predictions of a model with four classes."""

import numpy as np
from scipy.special import softmax

from mobilenet_jax.evaluation.predictions import Predictions

NAMES = ("MEL", "NV", "BCC", "DF")


def make_predictions(labels, probabilities, lesions=None):
    """Returns a table of predictions for images I0, I1, ..., by default each of a lesion of its own."""
    n = len(labels)
    images = np.array([f"I{i}" for i in range(n)])
    lesions = np.array([f"L{i}" for i in range(n)]) if lesions is None else lesions
    return Predictions(images, lesions, np.asarray(labels, np.int32), np.asarray(probabilities, np.float64), NAMES)


def sample_outputs(n=200, seed=0, scale=1.0):
    """Samples labels and the probabilities of a model that is better than chance; logits are multiplied by `scale`."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, n, p=(0.2, 0.6, 0.15, 0.05))
    logits = rng.normal(0, 1, (n, 4)) + 1.5 * np.eye(4)[labels]
    return labels, softmax(scale * logits, axis=1)
