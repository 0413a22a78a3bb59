"""Early stopping beside Keras's own callback."""

import math
from types import SimpleNamespace

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenet_jax.training.early_stopping import EarlyStopping

MONITORS = ("val_loss", "val_accuracy")


def kerass_verdict(stopping, values):
    """What Keras's callback says of the same epochs: after which it stops, and whose weights it restores.

    Keras cannot know which way a figure of this project's is to go, so `"auto"` is resolved for it.
    """
    mode = stopping.mode
    if mode == "auto" and not stopping.monitor.endswith("loss"):
        mode = "max"
    callback = keras.callbacks.EarlyStopping(**{**stopping._asdict(), "mode": mode}, restore_best_weights=True)
    weights = []  # of each epoch: its number
    model = SimpleNamespace(
        stop_training=False, get_weights=lambda: weights[-1], set_weights=lambda w: weights.append(w)
    )
    callback.set_model(model)
    callback.on_train_begin()
    stopped = None
    for epoch, value in enumerate(values, start=1):
        weights.append(epoch)
        callback.on_epoch_end(epoch - 1, {stopping.monitor: value})
        if model.stop_training:
            stopped = epoch
            break
    callback.on_train_end()
    return stopped, None if callback.best_weights is None else weights[-1]


CASES = {
    "monitor": (EarlyStopping("val_accuracy", patience=1), [0.1, 0.5, 0.4, 0.6], (3, 2)),
    "mode": (EarlyStopping("val_accuracy", mode="min", patience=2), [0.5, 0.6, 0.7, 0.1], (3, 1)),
    "min_delta": (EarlyStopping(min_delta=0.1, patience=2), [1.0, 0.95, 0.91, 0.5], (3, 1)),
    "patience": (EarlyStopping(patience=3), [1.0, 1.1, 1.2, 0.9, 1.0, 1.0, 1.0, 0.1], (7, 4)),
    "baseline": (EarlyStopping(patience=3, baseline=0.5), [1.0, 0.9, 0.8, 0.7, 0.4], (None, 5)),
    "baseline not bettered": (EarlyStopping(patience=3, baseline=0.5), [1.0, 0.9, 0.8, 0.85, 0.4], (4, 3)),
    "start_from_epoch": (EarlyStopping(patience=1, start_from_epoch=3), [0.1, 9.0, 9.0, 1.0, 0.9, 1.0, 0.2], (6, 5)),
    "restore best weights": (EarlyStopping(patience=0), [1.0, 0.5, 0.5, 0.1], (3, 2)),
    "goes on": (EarlyStopping(patience=10), [1.0, 1.1, 1.2], (None, 1)),
    "not begun": (EarlyStopping(start_from_epoch=5), [1.0, 2.0], (None, None)),
}


@pytest.mark.parametrize("case", CASES)
def test_it_stops_and_restores_as_keras_does(case):
    stopping, values, expected = CASES[case]
    assert stopping.verdict(values) == expected
    assert kerass_verdict(stopping, values) == expected


figures = st.integers(-8, 8).map(lambda n: n / 4)  # quarters: equal values and exact differences come up often


@settings(max_examples=300, deadline=None)
@given(
    stopping=st.builds(
        EarlyStopping,
        monitor=st.sampled_from(MONITORS),
        mode=st.sampled_from(["auto", "min", "max"]),
        min_delta=st.integers(0, 3).map(lambda n: n / 4),
        patience=st.integers(0, 4),
        baseline=st.none() | figures,
        start_from_epoch=st.integers(0, 4),
    ),
    values=st.lists(figures, max_size=12),
)
def test_it_agrees_with_keras_on_any_history(stopping, values):
    assert stopping.verdict(values) == kerass_verdict(stopping, values)


def test_what_is_said_of_a_run_does_not_change_as_it_goes_on():
    stopping, values = EarlyStopping(patience=2), [1.0, 0.9, 1.0, 1.0, 0.1]
    assert [stopping.verdict(values[:n])[0] for n in range(6)] == [None, None, None, None, 4, 4]


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(figures | st.just(math.nan), max_size=12),
    patience=st.integers(0, 4),
    mode=st.sampled_from(["min", "max"]),
)
def test_nan_never_counts_as_best(values, patience, mode):
    """As in Keras, unless the first is NaN: Keras keeps it as the best, and nothing betters it."""
    stopping = EarlyStopping(mode=mode, patience=patience)
    stopped, best = stopping.verdict(values)
    assert best is None or not math.isnan(values[best - 1])
    if values and not math.isnan(values[0]):
        assert (stopped, best) == kerass_verdict(stopping, values)


def test_after_a_nan_at_first_training_can_still_improve():
    values = [math.nan, 1.0, 0.9, 0.8]
    assert kerass_verdict(EarlyStopping(patience=2), values) == (3, 1)
    assert EarlyStopping(patience=2).verdict(values) == (None, 4)
    assert EarlyStopping(patience=2).verdict([math.nan] * 3) == (2, None)
