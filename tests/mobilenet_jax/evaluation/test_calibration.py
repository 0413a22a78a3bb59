import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.calibration import (
    Calibration,
    compute_logits,
    cross_fit,
    fit_calibration,
    read_calibration,
)
from tests.helpers.predictions import make_predictions, sample_outputs


def test_a_known_temperature_is_recovered():
    y, p = sample_outputs(4000)
    sharp = make_predictions(*sample_outputs(4000, scale=3.0))
    prior = np.bincount(y) / len(y)
    calibration, sharp_calibration = fit_calibration(make_predictions(y, p), prior), fit_calibration(sharp, prior)
    assert sharp_calibration.temperature == pytest.approx(3 * calibration.temperature, rel=1e-3)
    corrected = sharp_calibration.apply(sharp, "temperature")
    assert sk.log_loss(y, corrected.probabilities) < sk.log_loss(y, sharp.probabilities)
    np.testing.assert_array_equal(corrected.predicted, sharp.predicted)


def test_a_known_prior_is_removed():
    """Recovers the likelihoods of balanced classes from their product with a prior."""
    rng = np.random.default_rng(0)
    prior = np.array([0.2, 0.6, 0.15, 0.05])
    y = rng.choice(4, 6000, p=prior)
    x = rng.normal(np.eye(4)[y], 0.7)
    likelihood = -np.square(x[:, None, :] - np.eye(4)).sum(2) / (2 * 0.7**2)
    posterior = make_predictions(y, softmax(likelihood + np.log(prior), axis=1))
    calibration = fit_calibration(posterior, prior)
    assert calibration.strength == pytest.approx(1, abs=0.1)
    corrected = calibration.apply(posterior, "prior")
    np.testing.assert_allclose(corrected.probabilities, softmax(likelihood, axis=1), atol=0.05)
    before, after = (sk.balanced_accuracy_score(y, table.predicted) for table in (posterior, corrected))
    assert after > before + 0.02


@pytest.mark.parametrize("images", [30, 300])
def test_corrections_do_not_overfit_images_that_are_all_classified_correctly(images):
    rng = np.random.default_rng(0)
    prior = np.array([0.7, 0.2, 0.1])

    def sample(n):
        y = rng.choice(3, n, p=prior)
        return make_predictions(y, softmax(2 * rng.normal(4 * np.eye(3)[y]), axis=1))

    validation = sample(2 * images)
    validation = validation.take(np.flatnonzero(validation.predicted == validation.labels)[:images])
    calibration, test = fit_calibration(validation, prior), sample(20_000)
    before = sk.log_loss(test.labels, test.probabilities)
    for correction in ("temperature", "prior"):
        assert sk.log_loss(test.labels, calibration.apply(test, correction).probabilities) < before
    assert 0.2 < calibration.temperature < 1


def test_the_prior_correction_does_not_favor_classes_without_training_images():
    [corrected] = Calibration(1, (0.9, 0.1, 0), 1, 1).correct(np.array([[0.6, 0.3, 0.1]]), "prior")
    expected = np.array([0.6 / 0.9, 0.3 / 0.1, 0.1 / 0.9])
    np.testing.assert_allclose(corrected, expected / expected.sum())


def test_cross_fitting_keeps_the_order_and_separates_lesions():
    y, p = sample_outputs(100)
    predictions = make_predictions(y, p, np.array([f"L{i // 2}" for i in range(100)]))
    corrected = cross_fit(predictions, np.full(4, 0.25), "temperature")
    np.testing.assert_array_equal(corrected.images, predictions.images)
    before, after = (np.subtract(*compute_logits(x)[:, :2].T) for x in (p, corrected.probabilities))
    temperatures = np.round(before / after, 6)
    assert 1 < len(set(temperatures)) <= 5
    np.testing.assert_array_equal(temperatures[::2], temperatures[1::2])


def test_cross_fitting_images_of_a_single_lesion_is_refused():
    y, p = sample_outputs(100)
    with pytest.raises(EvaluationError, match="single lesion"):
        cross_fit(make_predictions(y, p, np.full(100, "L")), np.full(4, 0.25), "prior")


def test_a_calibration_is_read_as_it_was_written(tmp_path):
    calibration = Calibration(1.5, (0.2, 0.8), 2.0, 0.5)
    calibration.write(tmp_path / "c.json", "best")
    assert read_calibration(tmp_path / "c.json", "best") == calibration


def test_a_calibration_that_was_fitted_to_other_probabilities_is_refused(tmp_path):
    Calibration(1.5, (0.2, 0.8), 2.0, 0.5).write(tmp_path / "c.json", "best")
    with pytest.raises(EvaluationError, match="fitted to best, not to latest"):
        read_calibration(tmp_path / "c.json", "latest")


def test_a_missing_calibration_names_the_command_that_fits_it(tmp_path):
    with pytest.raises(EvaluationError, match="is missing: run mobilenet-jax evaluate on the validation split"):
        read_calibration(tmp_path / "c.json", "best")


@pytest.mark.parametrize("text", ["", "[1]", '"text"', '{"temperature": 1}'])
def test_a_damaged_calibration_is_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(EvaluationError, match="cannot read"):
        read_calibration(tmp_path / "c.json", "best")
