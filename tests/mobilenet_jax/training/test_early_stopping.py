"""Early stopping compared with Keras's own callback."""

import math
from types import SimpleNamespace

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenet_jax.training.early_stopping import EarlyStopping, is_lower_better

MONITORS = ("val_loss", "val_accuracy")


def make_stopping(monitor="val_loss", mode="auto", min_delta=0.0, patience=0, baseline=None, start_from_epoch=0):
    """Builds the settings with Keras's defaults."""
    return EarlyStopping(monitor, mode, min_delta, patience, baseline, start_from_epoch)


def find_keras_stopping_epoch(stopping, values):
    """Returns the epoch after which Keras's callback stops, or None.

    Keras cannot infer the direction of this project's metrics, so it is given `"min"` or `"max"` instead of `"auto"`
    for metrics that are not losses.
    """
    mode = stopping.mode
    if mode == "auto" and not stopping.monitor.endswith("loss"):
        mode = "max"
    callback = keras.callbacks.EarlyStopping(**{**stopping._asdict(), "mode": mode})
    model = SimpleNamespace(stop_training=False)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, value in enumerate(values, start=1):
        callback.on_epoch_end(epoch - 1, {stopping.monitor: value})
        if model.stop_training:
            return epoch
    return None


CASES = {
    "monitor": (make_stopping("val_accuracy", patience=1), [0.1, 0.5, 0.4, 0.6], 3),
    "mode": (make_stopping("val_accuracy", mode="min", patience=2), [0.5, 0.6, 0.7, 0.1], 3),
    "min_delta": (make_stopping(min_delta=0.1, patience=2), [1.0, 0.95, 0.91, 0.5], 3),
    "patience": (make_stopping(patience=3), [1.0, 1.1, 1.2, 0.9, 1.0, 1.0, 1.0, 0.1], 7),
    "baseline": (make_stopping(patience=3, baseline=0.5), [1.0, 0.9, 0.8, 0.7, 0.4], None),
    "baseline not reached": (make_stopping(patience=3, baseline=0.5), [1.0, 0.9, 0.8, 0.85, 0.4], 4),
    "start_from_epoch": (make_stopping(patience=1, start_from_epoch=3), [0.1, 9.0, 9.0, 1.0, 0.9, 1.0, 0.2], 6),
    "no patience": (make_stopping(patience=0), [1.0, 0.5, 0.5, 0.1], 3),
    "continues": (make_stopping(patience=10), [1.0, 1.1, 1.2], None),
    "not started": (make_stopping(start_from_epoch=5), [1.0, 2.0], None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_stopping_epoch_equals_keras(case):
    stopping, values, expected = CASES[case]
    assert stopping.find_stopping_epoch(values) == expected
    assert find_keras_stopping_epoch(stopping, values) == expected


metrics = st.integers(-8, 8).map(lambda n: n / 4)  # quarters, so that equal values and exact differences are frequent


@settings(max_examples=300, deadline=None)
@given(
    stopping=st.builds(
        EarlyStopping,
        monitor=st.sampled_from(MONITORS),
        mode=st.sampled_from(["auto", "min", "max"]),
        min_delta=st.integers(0, 3).map(lambda n: n / 4),
        patience=st.integers(0, 4),
        baseline=st.none() | metrics,
        start_from_epoch=st.integers(0, 4),
    ),
    values=st.lists(metrics, max_size=12),
)
def test_the_stopping_epoch_equals_keras_for_any_history(stopping, values):
    assert stopping.find_stopping_epoch(values) == find_keras_stopping_epoch(stopping, values)


def test_the_stopping_epoch_does_not_change_as_the_history_grows():
    stopping, values = make_stopping(patience=2), [1.0, 0.9, 1.0, 1.0, 0.1]
    assert [stopping.find_stopping_epoch(values[:n]) for n in range(6)] == [None, None, None, None, 4, 4]


@settings(max_examples=200, deadline=None)
@given(
    first=metrics,
    others=st.lists(metrics | st.just(math.nan), max_size=11),
    patience=st.integers(0, 4),
    mode=st.sampled_from(["min", "max"]),
)
def test_nan_is_never_an_improvement(first, others, patience, mode):
    stopping, values = make_stopping(mode=mode, patience=patience), [first, *others]
    stopping_epoch = stopping.find_stopping_epoch(values)
    assert stopping_epoch == find_keras_stopping_epoch(stopping, values)
    worst = math.inf if mode == "min" else -math.inf
    assert stopping_epoch == stopping.find_stopping_epoch([worst if math.isnan(value) else value for value in values])


def test_training_can_improve_after_a_nan_in_the_first_epoch():
    """Keras takes that NaN as the best value, on which nothing improves."""
    values = [math.nan, 1.0, 0.9, 0.8]
    assert find_keras_stopping_epoch(make_stopping(patience=2), values) == 3
    assert make_stopping(patience=2).find_stopping_epoch(values) is None
    assert make_stopping(patience=2).find_stopping_epoch([math.nan] * 3) == 2


@pytest.mark.parametrize(
    ("monitor", "mode", "expected"),
    [
        ("val_loss", "auto", True),
        ("train_loss", "auto", True),
        ("val_balanced_accuracy", "auto", False),
        ("val_loss", "max", False),
        ("val_accuracy", "min", True),
    ],
)
def test_lower_is_better_for_losses_unless_the_mode_specifies_otherwise(monitor, mode, expected):
    assert is_lower_better(monitor, mode) is expected
