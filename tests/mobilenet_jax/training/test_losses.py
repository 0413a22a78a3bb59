import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from mobilenet_jax.training.losses import Regularizer, compute_balanced_class_weights, cross_entropy

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (20, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, 20).astype(np.int32)
CLASS_WEIGHTS = np.array([0.5, 1, 2, 0, 3, 1, 0.25], np.float32)


def test_cross_entropy_equals_optax_and_sklearn():
    losses = cross_entropy(jnp.array(LOGITS), LABELS)
    expected = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    probabilities = np.asarray(jax.nn.softmax(LOGITS.astype(np.float64)), np.float64)
    probabilities /= probabilities.sum(1, keepdims=True)
    assert float(losses.mean()) == pytest.approx(log_loss(LABELS, probabilities, labels=range(7)), rel=1e-5)


def test_losses_of_extreme_logits_are_finite():
    losses = cross_entropy(jnp.array([[1e4, -1e4], [1e4, -1e4]]), jnp.array([0, 1]))
    np.testing.assert_allclose(losses, [0, 2e4])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_equals_keras(label_smoothing):
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing, reduction=None)
    expected = np.asarray(keras_loss(np.eye(7, dtype=np.float32)[LABELS], LOGITS))
    losses = cross_entropy(jnp.array(LOGITS), LABELS, label_smoothing=label_smoothing)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)


def test_class_weights_equal_keras():
    """Compares the objective of a batch, which depends on the divisor of the mean."""
    model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(7, use_bias=False)])
    model.set_weights([np.eye(7, dtype=np.float32)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    expected = float(model.train_on_batch(LOGITS, LABELS, class_weight=dict(enumerate(CLASS_WEIGHTS))))
    losses = cross_entropy(jnp.array(LOGITS), LABELS, class_weights=jnp.array(CLASS_WEIGHTS))
    assert float(losses.mean()) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(losses[LABELS == 3], 0)


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 2, 2], [1, 1, 4]])
def test_balanced_class_weights_equal_sklearn(labels):
    weights = compute_balanced_class_weights(np.array(labels), 5)
    occurring = np.unique(labels)
    np.testing.assert_allclose(weights[occurring], compute_class_weight("balanced", classes=occurring, y=labels))
    np.testing.assert_array_equal(np.delete(weights, occurring), 0)
    assert weights.dtype == np.float32
    assert weights[labels].mean() == pytest.approx(1)  # so the learning rate keeps its meaning


def test_the_penalty_equals_keras():
    kernel, outputs = RNG.normal(size=(5, 4)).astype(np.float32), RNG.normal(size=(3, 4)).astype(np.float32)
    factors = {"kernel_l1": 0.1, "kernel_l2": 0.2, "activity_l1": 0.3, "activity_l2": 0.4}
    kernel_sum = keras.regularizers.L1L2(0.1, 0.2)(kernel)
    activity_sum = keras.regularizers.L1L2(0.3, 0.4)(outputs)
    params = {"dense_1": {"kernel": kernel, "bias": np.ones(4)}, "predictions": {"kernel": kernel}}
    penalty = Regularizer(**factors).compute_penalty(params, {"dense_1_output": (jnp.array(outputs),)})
    assert float(penalty) == pytest.approx(float(kernel_sum) + float(activity_sum) / 3, rel=1e-5)
    assert float(Regularizer(**factors).compute_penalty(params, {})) == 0
