"""Training objective: weighted and smoothed cross-entropy, and the regularizers of the head."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

ClassWeighting = Literal["none", "balanced"]


class Regularizer(NamedTuple):
    """Penalty factors for the 1024-unit dense layers of the head.

    They are the factors of Keras's `kernel_regularizer` and `activity_regularizer`: `l1` multiplies the sum of
    absolute values, `l2` the sum of squares. The activity sums run over the batch and are divided by its size, as in
    Keras since TensorFlow 1.13. The Keras of 2018 did not divide them, so an activity factor of 2018 corresponds to
    one `batch size` times larger here.

    Attributes:
        kernel_l1: applied to the kernels.
        kernel_l2: applied to the kernels.
        activity_l1: applied to the outputs.
        activity_l2: applied to the outputs.
    """

    kernel_l1: float = 0.0
    kernel_l2: float = 0.0
    activity_l1: float = 0.0
    activity_l2: float = 0.0

    def compute_penalty(self, params: Mapping[str, Any], activities: Mapping[str, Any]) -> jax.Array:
        """Sums the four penalties over the regularized layers.

        Args:
            params: the parameters of the model.
            activities: the collection `activities` that the model has sown: `{"LAYER_output": (outputs,)}`, with
                outputs of shape `[batch, units]`.

        Returns:
            A scalar.
        """
        total = jnp.zeros(())
        for name, [outputs] in activities.items():
            kernel = params[name.removesuffix("_output")]["kernel"]
            outputs, batch_size = outputs.astype(kernel.dtype), outputs.shape[0]
            for factor, measure, values in (
                (self.kernel_l1, jnp.abs, kernel),
                (self.kernel_l2, jnp.square, kernel),
                (self.activity_l1 / batch_size, jnp.abs, outputs),
                (self.activity_l2 / batch_size, jnp.square, outputs),
            ):
                if factor:  # XLA would compute the sums even for zeros
                    total += factor * measure(values).sum()
        return total


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: jax.typing.ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Computes the cross-entropy of each example in nats.

    Args:
        logits: float32 `[batch, classes]`.
        labels: int32 `[batch]`.
        class_weights: float32 `[classes]`, factors of the losses by class. As with Keras's `class_weight`, the mean
            over a batch then divides by the batch size, not by the sum of the weights.
        label_smoothing: the fraction of the target that is spread over all classes (Szegedy et al. 2016).

    Returns:
        float32 `[batch]`.
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    losses = optax.softmax_cross_entropy(logits, targets)
    return losses if class_weights is None else losses * jnp.asarray(class_weights)[labels]


def compute_balanced_class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Computes weights that give each class the same total weight, as scikit-learn's `class_weight="balanced"` does.

    Args:
        labels: int `[n]`.
        num_classes: the number of classes, including those that do not occur in `labels`.

    Returns:
        float32 `[num_classes]`: n / (number of classes that occur * examples of the class), and 0 for a class that
        does not occur.
    """
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / ((counts > 0).sum() * np.maximum(counts, 1)) * (counts > 0)
    return weights.astype(np.float32)
