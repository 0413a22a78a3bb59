import math

import numpy as np
import pytest

from mobilenet_jax.evaluation.bootstrap import compute_intervals, format_difference
from mobilenet_jax.evaluation.metrics import compute_balanced_accuracy, compute_calibration_error

ONE_CLASS = np.zeros(400, int)


def test_lesions_are_resampled_with_all_their_images():
    lesions = np.array(["a", "b", "a", "c", "b", "a"])
    samples = []

    def count(rows):
        samples.append(np.bincount(rows, minlength=6))
        return {"images": float(len(rows)), "undefined": math.nan}

    intervals = compute_intervals(lesions, ONE_CLASS[:6], count, 200)
    counts = np.array(samples)
    for lesion in "abc":
        members = counts[:, lesions == lesion]
        assert (members == members[:, :1]).all(), "images of one lesion are sampled equally often"
    assert (counts[:, [0, 1, 3]].sum(1) == 3).all(), "each sample has as many lesions as the data set"
    assert intervals["images"] == tuple(np.percentile(counts.sum(1), (2.5, 97.5)))
    assert np.isnan(intervals["undefined"]).all()
    assert (
        compute_intervals(lesions, ONE_CLASS[:6], count, 5)["images"]
        == compute_intervals(lesions, ONE_CLASS[:6], count, 5)["images"]
    )


def test_samples_that_lack_a_class_do_not_raise_the_balanced_accuracy():
    """Of the class of one lesion, half of the images are recognized; of the other class, nine tenths."""
    labels = np.repeat([0, 1], [100, 10])
    predicted = np.where(np.r_[np.arange(100) % 10 > 0, np.arange(10) % 2 > 0], labels, 1 - labels)
    lesions = np.array([*map(str, range(100)), *["rare"] * 10])
    sizes = []

    def statistic(rows):
        sizes.append(len(set(labels[rows])))
        accuracy = compute_balanced_accuracy(labels[rows], predicted[rows])
        return {"balanced_accuracy": accuracy, "a.macro_auc": accuracy, "accuracy": len(sizes)}

    intervals = compute_intervals(lesions, labels, statistic, 200)
    assert {1, 2} == set(sizes)
    for name in ("balanced_accuracy", "a.macro_auc"):
        assert intervals[name][0] < 0.7 < intervals[name][1] < 0.75
    assert intervals["accuracy"] == tuple(np.percentile(np.arange(1, 201), (2.5, 97.5))), "of all samples"


def test_a_metric_that_is_undefined_in_most_samples_has_no_interval():
    """Of 20 classes of 2 images each, most samples lack one."""
    labels, predicted = np.repeat(np.arange(20), 2), np.repeat(np.arange(20), 2) // 2
    statistic = lambda rows: {  # noqa: E731
        "balanced_accuracy": compute_balanced_accuracy(labels[rows], predicted[rows]),
        "accuracy": float((labels == predicted)[rows].mean()),
    }
    intervals = compute_intervals(np.arange(40).astype(str), labels, statistic, 200)
    assert np.isnan(intervals["balanced_accuracy"]).all()
    assert np.isfinite(intervals["accuracy"]).all()


def test_intervals_of_the_calibration_error_end_at_its_limits():
    """A small error in most samples, but a large one in the data set: reflection would exceed 1."""
    statistic = lambda rows: {"ece": 0.9 if len(set(rows)) == 4 else 0.1}  # noqa: E731
    assert compute_intervals(np.arange(4).astype(str), ONE_CLASS[:4], statistic, 100)["ece"] == (0.9, 1)


def test_a_single_lesion_has_no_intervals():
    """All samples would be the same, and every difference would have a star."""
    intervals = compute_intervals(np.array(["a"] * 5), ONE_CLASS[:5], lambda rows: {"accuracy": 1.0, "ece": 0.0}, 20)
    assert np.isnan([*intervals.values()]).all()


def test_a_star_marks_differences_whose_interval_excludes_0():
    assert format_difference(0.02, (0.01, 0.03), 2) == "+0.02 [+0.01, +0.03] *"
    assert format_difference(-0.02, (-0.03, -0.01), 2) == "-0.02 [-0.03, -0.01] *"
    assert format_difference(0.02, (-0.01, 0.05), 3) == "+0.020 [-0.010, +0.050]"
    assert format_difference(0.02, (math.nan, math.nan), 2) == "+0.02"


def test_95_percent_intervals_of_accuracy_cover_the_true_value_about_as_often():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        correct = rng.random(150) < 0.7
        statistic = lambda rows, c=correct: {"accuracy": float(c[rows].mean())}  # noqa: E731
        low, high = compute_intervals(np.arange(150).astype(str), ONE_CLASS[:150], statistic, 200)["accuracy"]
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_interval_of_the_calibration_error_corrects_the_bias_of_the_samples():
    """Uses a calibrated model: the calibration error of every sample is far above the true one, 0."""
    rng, intervals, differences = np.random.default_rng(0), [], []
    for _ in range(20):
        confidence = rng.beta(4, 1.5, 400)
        correct = rng.random(400) < confidence
        statistic = lambda rows, a=correct, c=confidence: {"ece": compute_calibration_error(a[rows], c[rows])}  # noqa: E731
        negated = lambda rows, s=statistic: {"d.ece": -s(rows)["ece"]}  # noqa: E731
        lesions = np.arange(400).astype(str)
        intervals.append(compute_intervals(lesions, ONE_CLASS, statistic, 100)["ece"])
        differences.append(compute_intervals(lesions, ONE_CLASS, statistic, 100, are_differences=True)["ece"])
        low, high = compute_intervals(lesions, ONE_CLASS, negated, 100, are_differences=True)["d.ece"]
        assert -intervals[-1][1] == pytest.approx(low)
        assert high >= -intervals[-1][0], "only differences may go below 0"
    lows, highs = np.array(intervals).T
    assert (lows >= 0).all()
    assert min(low for low, _ in differences) < 0, "although the values of all samples are positive"
    assert np.mean(lows) < 0.015
    assert np.mean(highs) < 0.08
