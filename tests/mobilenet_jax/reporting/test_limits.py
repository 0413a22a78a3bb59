from types import SimpleNamespace

import numpy as np
import pytest

from input_pipeline.sources.isic import CLASS_NAMES as NAMES
from mobilenet_jax.reporting.limits import list_limits, list_warnings


def make_evaluation(images_per_class=10, **facts):
    facts = {"source": "isic2018", "split": "all", "lesions": 70, "lesions_trained_on": 0} | facts
    labels = np.repeat(np.arange(7), images_per_class)
    return SimpleNamespace(facts=facts, predictions=SimpleNamespace(labels=labels, class_names=NAMES))


def test_a_sound_evaluation_has_no_warnings():
    assert list_warnings(make_evaluation()) == []


def test_synthetic_images_are_the_only_warning_about_the_sample():
    assert list_warnings(make_evaluation(source="sample")) == ["These images are synthetic. They are not medical data."]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "training", "lesions_trained_on": 70}, "The model was trained on these images"),
        ({"lesions_trained_on": 3}, "3 of the 70 lesions are in the training set"),
        ({"lesions": None, "lesions_trained_on": None}, "It is not known which of these images show the same lesion"),
        (
            {"images_per_class": 9},
            "Classes with fewer than 10 images: MEL 9, NV 9, BCC 9, AKIEC 9, BKL 9, DF 9, VASC 9",
        ),
    ],
)
def test_misleading_metrics_have_exactly_one_warning(changes, message):
    [warning] = list_warnings(make_evaluation(**changes))
    assert warning.startswith(message)


def test_limits_of_the_archive_apply_to_its_images_only():
    own, isic = (list_limits(SimpleNamespace(is_isic=is_isic)) for is_isic in (False, True))
    assert set(own) < set(isic)
    assert any("skin tones" in limit for limit in set(isic) - set(own))
