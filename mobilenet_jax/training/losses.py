"""What training minimizes: cross-entropy, weighted and smoothed if wished, and the regularizers of the head."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Regularizer(NamedTuple):
    """Factors of the sums of absolute values (l1) and squares (l2), on the head's dense 1024 layers.

    As Keras's `kernel_regularizer` and `activity_regularizer`. The latter's sum is over the batch and divided by its
    size, as Keras has done since TensorFlow 1.13; the Keras of 2018 did not divide, so that its factor acted as one
    `batch size` times larger does here.
    """

    kernel_l1: float = 0.0
    kernel_l2: float = 0.0
    activity_l1: float = 0.0
    activity_l2: float = 0.0

    def penalty(self, params: Mapping[str, Any], activities: Mapping[str, Any]) -> jax.Array:
        """The sum of all four over the layers, a scalar.

        Args:
            params: of the model.
            activities: the collection of that name: what each layer put out, as `LAYER_output`.
        """
        total = jnp.zeros(())
        for name, [outputs] in activities.items():
            kernel = params[name.removesuffix("_output")]["kernel"]
            outputs = outputs.astype(kernel.dtype)
            total += self.kernel_l1 * jnp.abs(kernel).sum() + self.kernel_l2 * jnp.square(kernel).sum()
            activity = self.activity_l1 * jnp.abs(outputs).sum() + self.activity_l2 * jnp.square(outputs).sum()
            total += activity / outputs.shape[0]
        return total


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: jax.typing.ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """The loss of each example in nats.

    Args:
        logits: float32 `[batch, classes]`.
        labels: int32 `[batch]`.
        class_weights: float32 `[classes]`, what the losses of each class are multiplied by; their mean over a batch is
            then taken over its size, as with Keras's `class_weight`.
        label_smoothing: the share of the target that is spread over all classes (Szegedy et al. 2016).

    Returns:
        float32 `[batch]`.
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    losses = optax.softmax_cross_entropy(logits, targets)
    return losses if class_weights is None else losses * jnp.asarray(class_weights)[labels]


def balanced_class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """float32 `[num_classes]`: n / (classes that occur x examples of the class), 0 for one that does not occur."""
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / ((counts > 0).sum() * np.maximum(counts, 1)) * (counts > 0)
    return weights.astype(np.float32)
