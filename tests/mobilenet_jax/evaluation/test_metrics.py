"""Figures of predictions beside scikit-learn's, corrections of probabilities, and how sure all of it is."""

import math
import warnings

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.calibration import (
    Calibration,
    compute_logits,
    cross_fit,
    fit_calibration,
    read_calibration,
)
from mobilenet_jax.evaluation.metrics import bootstrap, compute_calibration_error, compute_metrics
from mobilenet_jax.evaluation.predictions import Predictions, read_predictions

NAMES = ("MEL", "NV", "BCC", "DF")


def table(labels, probabilities, lesions=None, names=NAMES):
    n = len(labels)
    lesions = np.array([f"L{i}" for i in range(n)]) if lesions is None else lesions
    images = np.array([f"I{i}" for i in range(n)])
    return Predictions(images, lesions, np.asarray(labels, np.int32), np.asarray(probabilities, np.float64), names)


def drawn(n=200, seed=0, scale=1.0):
    """Logits that know something of the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, n, p=(0.2, 0.6, 0.15, 0.05))
    logits = rng.normal(0, 1, (n, 4)) + 1.5 * np.eye(4)[labels]
    return labels, softmax(scale * logits, axis=1)


RNG = np.random.default_rng(1)
CASES = {
    "random": drawn(),
    "few": drawn(12, 3),
    "a class absent": (RNG.integers(0, 3, 50), softmax(RNG.normal(size=(50, 4)), axis=1)),
    "one class only": (np.ones(20, int), softmax(RNG.normal(size=(20, 4)), axis=1)),
    "ties": (RNG.integers(0, 4, 60), RNG.permuted(np.tile([0.4, 0.4, 0.1, 0.1], (60, 1)), axis=1)),
    "ties in pairs": (np.tile([0, 1], 20), np.repeat([[x, 1 - x, 0, 0] for x in np.linspace(0.1, 0.9, 20)], 2, axis=0)),
    "perfect": (np.arange(40) % 4, np.eye(4)[np.arange(40) % 4]),
    "constant": (RNG.integers(0, 4, 30), np.full((30, 4), 0.25)),
    "one image": (np.array([2]), np.array([[0.1, 0.2, 0.3, 0.4]])),
}


@pytest.mark.parametrize("case", CASES)
def test_every_figure_is_scikit_learns(case):
    y, p = CASES[case]
    found = compute_metrics(table(y, p), ("MEL", "BCC"))
    predicted, classes = p.argmax(1), range(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": sk.accuracy_score(y, predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(y, predicted),
            "top_2_accuracy": sk.top_k_accuracy_score(y, p, k=2, labels=classes),
            "top_3_accuracy": sk.top_k_accuracy_score(y, p, k=3, labels=classes),
            "nll": sk.log_loss(y, p, labels=classes),
            "brier": sum(sk.brier_score_loss(y == c, p[:, c], pos_label=True) for c in classes),
        }
        columns = {name: (y == c, predicted == c, p[:, c]) for c, name in enumerate(NAMES)}
        columns["malignant"] = (np.isin(y, (0, 2)), np.isin(predicted, (0, 2)), p[:, 0] + p[:, 2])
        for name, (truth, chosen, score) in columns.items():
            some, all_ = truth.any(), truth.all()
            report = sk.classification_report(truth, chosen, labels=[0, 1], output_dict=True, zero_division=np.nan)
            expected |= {
                f"{name}.recall": report["1"]["recall"],
                f"{name}.precision": report["1"]["precision"],
                f"{name}.specificity": report["0"]["recall"],
                f"{name}.auc": sk.roc_auc_score(truth, score) if some and not all_ else math.nan,
                f"{name}.average_precision": sk.average_precision_score(truth, score) if some else math.nan,
                f"{name}.images": truth.sum(),
            }
            for s in (90, 95):
                best = math.nan
                if some and not all_:
                    sure = [t for t in np.unique(score) if np.mean(score[truth] >= t) >= s / 100]
                    best = max(np.mean(score[~truth] < t) for t in sure)
                expected[f"{name}.specificity_at_{s}"] = best
    aucs, precisions = ([expected[f"{n}.{f}"] for n in NAMES] for f in ("auc", "average_precision"))
    expected["macro_auc"] = np.nanmean(aucs) if not np.isnan(aucs).all() else math.nan
    expected["macro_average_precision"] = np.nanmean(precisions)
    assert found.keys() == expected.keys() | {"ece"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), name


def test_the_calibration_error_is_that_of_scikit_learns_bins():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 500)
    correct = rng.random(500) < confidence**2
    shares, means = calibration_curve(correct, confidence, n_bins=15)
    counts = np.histogram(confidence, np.linspace(0, 1, 16))[0]
    expected = np.sum(counts[counts > 0] / 500 * np.abs(shares - means))
    assert compute_calibration_error(correct, confidence) == pytest.approx(expected)
    assert compute_calibration_error(np.array([True, False]), np.array([1.0, 1.0])) == 0.5


def test_the_order_of_the_rows_does_not_matter():
    y, p = CASES["random"]
    order = np.random.default_rng(0).permutation(len(y))
    found, expected = compute_metrics(table(y[order], p[order])), compute_metrics(table(y, p))
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_bootstrap_draws_lesions_whole():
    lesions = np.array(["a", "b", "a", "c", "b", "a"])
    draws = []

    def count(rows):
        draws.append(np.bincount(rows, minlength=6))
        return {"images": float(len(rows)), "none": math.nan}

    intervals = bootstrap(lesions, count, 200)
    counts = np.array(draws)
    for lesion in "abc":
        members = counts[:, lesions == lesion]
        assert (members == members[:, :1]).all(), "as often as each other"
    assert (counts[:, [0, 1, 3]].sum(1) == 3).all(), "as many lesions as there are"
    assert intervals["images"] == tuple(np.percentile(counts.sum(1), (2.5, 97.5)))
    assert np.isnan(intervals["none"]).all()
    assert bootstrap(lesions, count, 5, seed=1)["images"] == bootstrap(lesions, count, 5, seed=1)["images"]


def test_intervals_of_accuracy_cover_the_truth_as_often_as_they_say():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        right = rng.random(150) < 0.7
        low, high = bootstrap(np.arange(150).astype(str), lambda rows, r=right: {"a": float(r[rows].mean())}, 200)["a"]
        inside += low <= 0.7 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_the_interval_of_the_calibration_error_is_not_of_draws_that_are_all_too_high():
    """A calibrated model: every draw's calibration error is far over the true one, 0."""
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        confidence = rng.beta(4, 1.5, 400)
        right = rng.random(400) < confidence
        statistic = lambda rows, r=right, c=confidence: {"ece": compute_calibration_error(r[rows], c[rows])}  # noqa: E731
        found.append(bootstrap(np.arange(400).astype(str), statistic, 100)["ece"])
        negative = bootstrap(np.arange(400).astype(str), lambda rows, s=statistic: {"d.ece": -s(rows)["ece"]}, 100)
        low, high = negative["d.ece"]
        assert -found[-1][1] == pytest.approx(low)
        assert high >= -found[-1][0]
    lows, highs = np.array(found).T
    assert (lows >= 0).all()
    assert np.mean(lows) < 0.015
    assert np.mean(highs) < 0.08


def test_a_temperature_that_was_put_in_is_found():
    y, sharp = drawn(4000, scale=3.0)
    prior = np.bincount(y) / len(y)
    calibration = fit_calibration(table(y, drawn(4000)[1]), prior)
    sharper = fit_calibration(table(y, sharp), prior)
    assert sharper.temperature == pytest.approx(3 * calibration.temperature, rel=1e-3)
    corrected = sharper.apply(table(y, sharp), "temperature")
    assert sk.log_loss(y, corrected.probabilities) < sk.log_loss(y, sharp)
    np.testing.assert_array_equal(corrected.predicted, sharp.argmax(1))


def test_a_prior_that_was_put_in_is_taken_out():
    """Likelihoods of balanced classes times a prior: the correction gives back what balanced training had given."""
    rng = np.random.default_rng(0)
    prior = np.array([0.2, 0.6, 0.15, 0.05])
    y = rng.choice(4, 6000, p=prior)
    x = rng.normal(np.eye(4)[y], 0.7)
    likelihood = -np.square(x[:, None, :] - np.eye(4)).sum(2) / (2 * 0.7**2)
    posterior = softmax(likelihood + np.log(prior), axis=1)
    calibration = fit_calibration(table(y, posterior), prior)
    assert calibration.strength == pytest.approx(1, abs=0.1)
    corrected = calibration.apply(table(y, posterior), "prior")
    np.testing.assert_allclose(corrected.probabilities, softmax(likelihood, axis=1), atol=0.05)
    before, after = (sk.balanced_accuracy_score(y, p.argmax(1)) for p in (posterior, corrected.probabilities))
    assert after > before + 0.02


def test_cross_fitted_rows_keep_their_order_and_are_not_fitted_to_their_own_lesion():
    y, p = drawn(100)
    lesions = np.array([f"L{i // 2}" for i in range(100)])
    predictions = table(y, p, lesions)
    corrected = cross_fit(predictions, np.full(4, 0.25), "temperature")
    np.testing.assert_array_equal(corrected.images, predictions.images)
    before, after = (np.subtract(*compute_logits(x)[:, :2].T) for x in (p, corrected.probabilities))
    temperatures = np.round(before / after, 6)
    assert 1 < len(set(temperatures)) <= 5
    np.testing.assert_array_equal(temperatures[::2], temperatures[1::2])
    with pytest.raises(EvaluationError, match="single lesion"):
        cross_fit(table(y, p, np.full(100, "L")), np.full(4, 0.25), "prior")


def test_predictions_and_corrections_are_read_as_they_were_written(tmp_path):
    y, p = CASES["random"]
    (tmp_path / "p.csv").write_text(table(y, p).as_csv())
    found = read_predictions(tmp_path / "p.csv")
    assert found.class_names == NAMES
    for column in ("images", "lesions", "labels"):
        np.testing.assert_array_equal(getattr(found, column), getattr(table(y, p), column))
    np.testing.assert_allclose(found.probabilities, p, rtol=1e-8)
    Calibration(1.5, (0.2, 0.8), 2.0, 0.5).write(tmp_path / "c.json", "one")
    assert read_calibration(tmp_path / "c.json", "one") == Calibration(1.5, (0.2, 0.8), 2.0, 0.5)
    with pytest.raises(EvaluationError, match="fitted to one, not to other"):
        read_calibration(tmp_path / "c.json", "other")


@pytest.mark.parametrize("text", ["", "image,label\na,b\n", "image,lesion,label,predicted,A\ni,l,B,A,1\n"])
def test_what_is_no_table_of_predictions_is_refused(tmp_path, text):
    with pytest.raises(EvaluationError, match="is missing: run mobilenet-jax evaluate"):
        read_predictions(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(EvaluationError, match="cannot read"):
        read_predictions(tmp_path / "p.csv")


@pytest.mark.parametrize("text", ["", "[1]", '{"temperature": 1}'])
def test_what_is_no_correction_is_refused(tmp_path, text):
    with pytest.raises(EvaluationError, match="is missing: run mobilenet-jax evaluate on the validation split"):
        read_calibration(tmp_path / "c.json", "one")
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(EvaluationError, match="cannot read"):
        read_calibration(tmp_path / "c.json", "one")
