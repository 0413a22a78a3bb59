"""Metrics are compared with scikit-learn's, also on degenerate data."""

import math
import warnings

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from mobilenet_jax.evaluation.metrics import (
    CALIBRATION_BINS,
    assign_bins,
    compute_calibration_error,
    compute_key_metrics,
    compute_metrics,
    compute_nll,
    list_overall,
)
from mobilenet_jax.evaluation.predictions import Predictions
from tests.helpers.predictions import NAMES, make_predictions, sample_outputs

RNG = np.random.default_rng(1)
CASES = {
    "random": sample_outputs(),
    "few": sample_outputs(12, 3),
    "an absent class": (RNG.integers(0, 3, 50), softmax(RNG.normal(size=(50, 4)), axis=1)),
    "one class only": (np.ones(20, int), softmax(RNG.normal(size=(20, 4)), axis=1)),
    "ties": (RNG.integers(0, 4, 60), RNG.permuted(np.tile([0.4, 0.4, 0.1, 0.1], (60, 1)), axis=1)),
    "ties in pairs": (np.tile([0, 1], 20), np.repeat([[x, 1 - x, 0, 0] for x in np.linspace(0.1, 0.9, 20)], 2, axis=0)),
    "perfect": (np.arange(40) % 4, np.eye(4)[np.arange(40) % 4]),
    "constant": (RNG.integers(0, 4, 30), np.full((30, 4), 0.25)),
    "one image": (np.array([2]), np.array([[0.1, 0.2, 0.3, 0.4]])),
}


@pytest.mark.parametrize("case", CASES)
def test_every_metric_equals_scikit_learns(case):
    y, p = CASES[case]
    metrics = compute_metrics(make_predictions(y, p), ("MEL", "BCC"))
    predicted, classes = p.argmax(1), range(4)
    first = p - 1e-9 * np.arange(4)  # of equal classes, scikit-learn's top k has the last ones, `predicted` the first
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": sk.accuracy_score(y, predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(y, predicted),
            "top_2_accuracy": sk.top_k_accuracy_score(y, first, k=2, labels=classes),
            "top_3_accuracy": sk.top_k_accuracy_score(y, first, k=3, labels=classes),
            "nll": sk.log_loss(y, p, labels=classes),
            "brier": sum(sk.brier_score_loss(y == c, p[:, c], pos_label=True) for c in classes),
        }
        columns = {name: (y == c, predicted == c, p[:, c]) for c, name in enumerate(NAMES)}
        columns["malignant"] = (np.isin(y, (0, 2)), np.isin(predicted, (0, 2)), p[:, 0] + p[:, 2])
        for name, (truth, chosen, score) in columns.items():
            is_defined = truth.any() and not truth.all()
            report = sk.classification_report(truth, chosen, labels=[0, 1], output_dict=True, zero_division=np.nan)
            expected |= {
                f"{name}.recall": report["1"]["recall"],
                f"{name}.precision": report["1"]["precision"],
                f"{name}.specificity": report["0"]["recall"],
                f"{name}.auc": sk.roc_auc_score(truth, score) if is_defined else math.nan,
                f"{name}.average_precision": sk.average_precision_score(truth, score) if is_defined else math.nan,
                f"{name}.images": truth.sum(),
            }
            for s in (90, 95):
                best = math.nan
                if is_defined:
                    thresholds = [t for t in np.unique(score) if np.mean(score[truth] >= t) >= s / 100]
                    best = max(np.mean(score[~truth] < t) for t in thresholds)
                expected[f"{name}.specificity_at_{s}"] = best
    for metric in ("auc", "average_precision"):
        values = [expected[f"{n}.{metric}"] for n in NAMES]
        expected[f"macro_{metric}"] = np.nanmean(values) if not np.isnan(values).all() else math.nan
    assert metrics.keys() == expected.keys() | {"ece"}
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), name


def test_the_likelihood_of_tiny_probabilities_is_counted():
    assert compute_nll(np.array([0, 1]), np.array([[1e-30, 1], [0, 1]])) == pytest.approx(30 * math.log(10) / 2)
    assert str(compute_nll(np.array([0]), np.array([[1.0, 0]]))) == "0.0"
    assert compute_nll(np.array([0]), np.array([[0.0, 1]])) == pytest.approx(87.3, abs=0.1)


def test_the_calibration_error_uses_the_bins_of_scikit_learn():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 500)
    correct = rng.random(500) < confidence**2
    accuracies, means = calibration_curve(correct, confidence, n_bins=CALIBRATION_BINS)
    counts = np.histogram(confidence, np.linspace(0, 1, CALIBRATION_BINS + 1))[0]
    expected = np.sum(counts[counts > 0] / 500 * np.abs(accuracies - means))
    assert compute_calibration_error(correct, confidence) == pytest.approx(expected)
    assert compute_calibration_error(np.array([True, False]), np.array([1.0, 1.0])) == 0.5


def test_a_confidence_of_one_is_in_the_last_of_15_bins():
    assert assign_bins(np.array([0.0, 0.5, 0.999, 1.0])).tolist() == [0, 7, 14, 14]


def test_metrics_do_not_depend_on_the_order_of_the_images():
    y, p = CASES["random"]
    order = np.random.default_rng(0).permutation(len(y))
    metrics, expected = compute_metrics(make_predictions(y[order], p[order])), compute_metrics(make_predictions(y, p))
    assert metrics == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("classes", "missing"), [(2, {2, 3}), (3, {3}), (4, set())])
def test_top_k_accuracy_is_left_out_for_k_classes_or_fewer(classes, missing):
    images = np.array([f"I{i}" for i in range(2 * classes)])
    labels, probabilities = np.arange(2 * classes) % classes, np.full((2 * classes, classes), 1 / classes)
    predictions = Predictions(images, images, labels, probabilities, NAMES[:classes])
    expected = {f"top_{k}_accuracy" for k in {2, 3} - missing}
    assert {name for name in compute_metrics(predictions) if name.startswith("top_")} == expected
    assert {name for name in list_overall(classes) if name.startswith("top_")} == expected


@pytest.mark.parametrize("classes", [range(4), [1, 3], [2]])
def test_the_key_metrics_are_those_of_all_metrics(classes):
    labels, probabilities = sample_outputs()
    rows = np.flatnonzero(np.isin(labels, list(classes)))
    table = make_predictions(labels[rows], probabilities[rows])
    key, metrics = compute_key_metrics(table), compute_metrics(table)
    assert key == pytest.approx({name: metrics[name] for name in key}, nan_ok=True)
