from types import SimpleNamespace

import numpy as np
import pytest

from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.calibration import cross_fit
from mobilenet_jax.evaluation.evaluate import (
    _average_predictions,
    _calibrate,
    _check_arguments,
    _count_trained_on,
    _has_comparable_names,
)
from tests.helpers.predictions import make_predictions, sample_outputs


def _make_run(images, lesions=None, folder="data", is_isic=False):
    return SimpleNamespace(
        images=frozenset(images),
        lesions=lesions,
        is_isic=is_isic,
        locate_images=lambda data, source: (folder, "folders"),
    )


def _make_part(*names, lesions=None):
    lesions_known = lesions is not None
    return SimpleNamespace(names=np.array(names), lesions=np.array(lesions or names), lesions_known=lesions_known)


def test_images_that_a_model_was_trained_on_are_counted_where_lesions_are_unknown():
    run = _make_run({"a", "b"})
    for part, count in ((_make_part("a", "b", "c"), 2), (_make_part("c"), 0), (_make_part("a", lesions=["L1"]), 1)):
        expected = {"lesions_trained_on": None, "images_trained_on": count}
        assert _count_trained_on([run], [part], is_comparable=True) == expected
    unknown = _make_run(()).__dict__ | {"images": None}
    counts = _count_trained_on([SimpleNamespace(**unknown)], [_make_part("a")], is_comparable=True)
    assert counts == {"lesions_trained_on": None, "images_trained_on": None}


def test_lesions_are_counted_where_both_tables_have_them():
    run = _make_run({"a", "b"}, lesions=frozenset({"L1", "L2"}))
    part = _make_part("c", "d", lesions=["L2", "L3"])
    assert _count_trained_on([run], [part], is_comparable=True) == {"lesions_trained_on": 1, "images_trained_on": None}
    counts = _count_trained_on([run], [part], is_comparable=False)
    assert counts == {"lesions_trained_on": None, "images_trained_on": None}


def test_each_fold_is_compared_with_its_own_training_set():
    folds = [_make_run({"a", "b"}), _make_run({"c", "d"})]
    parts = [_make_part("c", "d"), _make_part("a", "b")]
    assert _count_trained_on(folds, parts, is_comparable=True)["images_trained_on"] == 0


def test_a_correction_is_cross_fitted_to_the_images_that_are_evaluated():
    predictions = make_predictions(*sample_outputs(100))
    priors = np.array([0.2, 0.6, 0.15, 0.05]), np.array([0.1, 0.7, 0.1, 0.1])
    runs = [SimpleNamespace(prior=prior) for prior in priors]
    corrected = _calibrate(runs, predictions, views=1, correction="prior")
    np.testing.assert_array_equal(
        corrected.probabilities, cross_fit(predictions, np.mean(priors, axis=0), "prior").probabilities
    )
    assert _calibrate(runs, predictions, views=1, correction=None) is predictions


@pytest.mark.parametrize(
    ("is_isic", "split", "folder", "layout", "is_comparable"),
    [
        (False, "all", "./data/", "folders", True),
        (False, "all", "elsewhere", "folders", False),
        (False, "validation", "elsewhere", "folders", True),
        (True, "all", "elsewhere", "isic2018", True),
        (True, "all", "elsewhere", "csv", False),
    ],
)
def test_names_are_comparable_in_the_images_of_the_run_and_in_those_of_the_archive(
    is_isic, split, folder, layout, is_comparable
):
    run = _make_run({"a"}, is_isic=is_isic)
    assert _has_comparable_names([run], split, folder, layout) == is_comparable


def test_models_are_averaged_on_the_same_images_only():
    first, second = (make_predictions(*sample_outputs(20)) for _ in range(2))
    np.testing.assert_allclose(_average_predictions([first, second]).probabilities, first.probabilities)
    for other in (second.take(np.arange(len(second))[::-1]), second.take(np.arange(3))):
        with pytest.raises(EvaluationError, match="the runs read different images"):
            _average_predictions([first, other])


def test_a_class_called_malignant_is_not_confused_with_the_union_of_classes():
    runs = [SimpleNamespace(class_names=("benign", "malignant", "suspicious"))]
    _check_arguments(runs, "validation", ["malignant"])
    _check_arguments(runs, "validation", [])
    with pytest.raises(EvaluationError, match="the metrics of the class malignant would"):
        _check_arguments(runs, "validation", ["malignant", "suspicious"])
