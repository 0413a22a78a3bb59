"""Training objective: the cross-entropy and its variants for imbalanced classes, and the regularizers of the head."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mobilenet_jax.evaluation.calibration import compute_log_prior

ClassWeighting = Literal["none", "balanced", "effective"]

_SMALLEST_REST = 1e-7  # the smallest 1 - p in the focal loss, whose gradient is infinite at 0 if focal_gamma is below 1
_OVERLAP = 0.9999  # beta of Cui et al. 2019, for data sets of 10,000 images


class Regularizer(NamedTuple):
    """Penalty factors for the 1024-unit dense layers of the head.

    They are the factors of Keras's `kernel_regularizer` and `activity_regularizer`: `l1` multiplies the sum of
    absolute values, `l2` the sum of squares. The activity sums run over the batch and are divided by its size, as in
    Keras since TensorFlow 1.13. The Keras of 2018 did not divide them, so multiply an activity factor of 2018 by the
    batch size to get the same penalty.

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
    targets: jax.Array,
    *,
    class_weights: jax.typing.ArrayLike | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    logit_offset: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Computes the cross-entropy of each example in nats, or a variant of it for imbalanced classes.

    Args:
        logits: float32 `[batch, classes]`.
        targets: int32 `[batch]`, the labels; or float32 `[batch, classes]`, the probabilities of the classes.
        class_weights: float32 `[classes]`, factors of the losses by class. As with Keras's `class_weight`, the mean
            over a batch then divides by the batch size, not by the sum of the weights. With probabilities, each class
            contributes its share.
        label_smoothing: the fraction of the target that is spread over all classes: equally (Szegedy et al. 2016), or
            in proportion to `exp(logit_offset)`, so that it is spread equally in the softmax of `logits` themselves.
            Otherwise the optimal logits of an example of a class that is frequent enough would favor rare ones.
        focal_gamma: the term of each class is multiplied by `(1 - p) ** focal_gamma`, where p is its predicted
            probability (the focal loss, Lin et al. 2017, arXiv:1708.02002).
        logit_offset: float32 `[classes]`, added to the logits. With the log frequencies of the classes, the logits
            themselves become those of balanced classes (Menon et al. 2021, arXiv:2007.07314, equation 10).

    Returns:
        float32 `[batch]`.
    """
    offset = jnp.zeros(logits.shape[-1]) if logit_offset is None else jnp.asarray(logit_offset)
    expected = jax.nn.one_hot(targets, len(offset)) if targets.ndim == 1 else targets
    if class_weights is not None:
        expected = expected * jnp.asarray(class_weights)[None]
    total = expected.sum(-1, keepdims=True)  # 1 without weights
    spread = label_smoothing * jax.nn.softmax(offset)[None]
    smoothed = (1 - label_smoothing) * expected + spread * total if label_smoothing else expected
    shifted = logits + offset[None]
    if focal_gamma:
        log_p = jax.nn.log_softmax(shifted)
        rest = jnp.maximum(1 - jnp.exp(log_p), _SMALLEST_REST)
        return -(smoothed * rest**focal_gamma * log_p).sum(-1)
    return optax.softmax_cross_entropy(shifted, smoothed)


def compute_class_weights(labels: np.ndarray, num_classes: int, weighting: ClassWeighting) -> np.ndarray | None:
    """Computes the factors of the losses by class.

    Args:
        labels: int `[n]`, the labels of the training examples.
        num_classes: the number of classes, including those that do not occur in `labels`.
        weighting: `"balanced"`: see `compute_balanced_class_weights`; `"effective"`: see
            `compute_effective_class_weights`; `"none"`: None is returned.

    Returns:
        float32 `[num_classes]`, or None.
    """
    match weighting:
        case "balanced":
            return compute_balanced_class_weights(labels, num_classes)
        case "effective":
            return compute_effective_class_weights(labels, num_classes)
    return None


def compute_logit_offset(labels: np.ndarray, num_classes: int, adjustment: float) -> np.ndarray | None:
    """Computes the `logit_offset` of `cross_entropy` for logit adjustment.

    It is `adjustment * log(frequency)` by class. A class without examples has the offset of the most frequent one.
    With that of a low frequency, the offset alone would make the class unlikely, and its logits would not be trained.

    Args:
        labels: int `[n]`, the labels of the training examples.
        num_classes: the number of classes, including those that do not occur in `labels`.
        adjustment: `loss.logit_adjustment`.

    Returns:
        float32 `[num_classes]`; None if `adjustment` is 0.
    """
    if not adjustment:
        return None
    counts = np.bincount(labels, minlength=num_classes)
    return (adjustment * compute_log_prior(counts / counts.sum())).astype(np.float32)


def compute_effective_class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Computes weights that are inverse to the effective number of examples of a class (Cui et al. 2019).

    The effective number of n examples is `(1 - beta**n) / (1 - beta)` with beta 0.9999 (arXiv:1901.05555, equation 2).
    It grows slower than n, so rare classes get smaller weights than with `compute_balanced_class_weights`.

    Args:
        labels: int `[n]`.
        num_classes: the number of classes, including those that do not occur in `labels`.

    Returns:
        float32 `[num_classes]`, whose mean over the examples is 1; 0 for a class that does not occur.
    """
    counts = np.bincount(labels, minlength=num_classes)
    effective = (1 - _OVERLAP ** np.maximum(counts, 1)) / (1 - _OVERLAP)
    weights = (counts > 0) / effective
    return (weights * len(labels) / (weights * counts).sum()).astype(np.float32)


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
