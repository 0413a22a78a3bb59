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

from mobilenet_jax.training.losses import (
    Regularizer,
    compute_balanced_class_weights,
    compute_effective_class_weights,
    compute_logit_offset,
    cross_entropy,
)

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


def test_targets_that_are_one_hot_are_labels():
    one_hot = np.eye(7, dtype=np.float32)[LABELS]
    options = {
        "class_weights": CLASS_WEIGHTS,
        "label_smoothing": 0.1,
        "focal_gamma": 2.0,
        "logit_offset": CLASS_WEIGHTS,
    }
    by_label = cross_entropy(jnp.array(LOGITS), LABELS, **options)
    np.testing.assert_array_equal(cross_entropy(jnp.array(LOGITS), jnp.array(one_hot), **options), by_label)


@pytest.mark.parametrize(
    "options",
    [
        {"class_weights": CLASS_WEIGHTS, "label_smoothing": 0.1},
        {"label_smoothing": 0.1, "logit_offset": CLASS_WEIGHTS},
        {"class_weights": CLASS_WEIGHTS, "focal_gamma": 2.0},
    ],
)
def test_the_loss_of_mixed_targets_is_the_mixture_of_the_losses(options):
    one_hot = np.eye(7, dtype=np.float32)[LABELS]
    losses = cross_entropy(jnp.array(LOGITS), 0.3 * one_hot + 0.7 * one_hot[::-1], **options)
    first, second = (cross_entropy(jnp.array(LOGITS), labels, **options) for labels in (LABELS, LABELS[::-1]))
    np.testing.assert_allclose(losses, 0.3 * first + 0.7 * second, rtol=1e-4, atol=1e-5)


def test_the_focal_loss_equals_keras():
    one_hot = np.eye(7, dtype=np.float32)[LABELS]
    focal = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=2.0, from_logits=True, reduction=None)
    losses = cross_entropy(jnp.array(LOGITS), LABELS, focal_gamma=2.0)
    np.testing.assert_allclose(losses, np.asarray(focal(one_hot, LOGITS)), rtol=1e-3, atol=1e-5)


def test_gradients_of_the_focal_loss_are_finite_for_extreme_logits():
    gradient = jax.grad(lambda z: cross_entropy(z, jnp.array([0, 1]), focal_gamma=0.5).sum())
    assert np.isfinite(gradient(jnp.array([[1e4, -1e4], [1e4, -1e4]]))).all()


def test_logit_adjustment_trains_classes_that_do_not_occur_like_the_most_frequent_one():
    labels = np.array([0, 0, 0, 1])
    np.testing.assert_allclose(np.exp(compute_logit_offset(labels, 2, 1.0)), [0.75, 0.25], rtol=1e-6)
    np.testing.assert_allclose(compute_logit_offset(labels, 3, 2.0), 2 * np.log([0.75, 0.25, 0.75]), rtol=1e-6)
    assert compute_logit_offset(labels, 3, 0.0) is None


def test_equal_logits_minimize_the_adjusted_loss_of_images_without_information():
    labels = np.repeat([0, 1], [90, 10])
    offset = compute_logit_offset(labels, 2, 1.0)

    def compute_mean(z):
        logits = jnp.stack([z, -z])[None].repeat(100, 0)
        return cross_entropy(logits, labels, logit_offset=offset).mean()

    assert float(jax.grad(compute_mean)(0.0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_the_label_minimizes_the_smoothed_and_adjusted_loss_however_frequent_its_class_is(label):
    """Smoothing with the same share for each class would favor a class that is 200 times rarer than the label."""
    prior = jnp.array([0.99, 0.006, 0.004])
    best = jnp.log(0.95 * jax.nn.one_hot(label, 3) / prior + 0.05)
    gradient = jax.grad(
        lambda z: cross_entropy(z[None], jnp.array([label]), label_smoothing=0.05, logit_offset=jnp.log(prior)).sum()
    )
    np.testing.assert_allclose(gradient(best), 0, atol=1e-6)
    assert jax.nn.softmax(best)[label] > 0.8


def test_effective_class_weights_follow_the_formula():
    counts = np.array([6705, 115, 0])
    weights = compute_effective_class_weights(np.repeat([0, 1, 2], counts), 3)
    ratio = (1 - 0.9999**6705) / (1 - 0.9999**115)
    assert weights[1] / weights[0] == pytest.approx(ratio, rel=1e-5)
    assert ratio < 6705 / 115
    assert weights[2] == 0
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1, rel=1e-6)


def test_the_penalty_equals_keras():
    kernel, outputs = RNG.normal(size=(5, 4)).astype(np.float32), RNG.normal(size=(3, 4)).astype(np.float32)
    factors = {"kernel_l1": 0.1, "kernel_l2": 0.2, "activity_l1": 0.3, "activity_l2": 0.4}
    kernel_sum = keras.regularizers.L1L2(0.1, 0.2)(kernel)
    activity_sum = keras.regularizers.L1L2(0.3, 0.4)(outputs)
    params = {"dense_1": {"kernel": kernel, "bias": np.ones(4)}, "predictions": {"kernel": kernel}}
    penalty = Regularizer(**factors).compute_penalty(params, {"dense_1_output": (jnp.array(outputs),)})
    assert float(penalty) == pytest.approx(float(kernel_sum) + float(activity_sum) / 3, rel=1e-5)
    assert float(Regularizer(**factors).compute_penalty(params, {})) == 0
