from types import SimpleNamespace

import numpy as np
import pytest

from input_pipeline.sources.isic import CLASS_NAMES as NAMES
from mobilenet_jax.reporting.limits import list_limits, list_warnings


def make_model(*, shows_lesions=True, is_isic=True, images=frozenset(), split="lesion", checkpoint="best", prior=None):
    return SimpleNamespace(
        shows_lesions=shows_lesions,
        is_isic=is_isic,
        images=images,
        config=None if images is None else {"data": {"split": split}},
        weights=SimpleNamespace(identity=f"{checkpoint} checkpoint, step 10"),
        describe_prior=lambda: prior,
    )


def make_evaluation(images_per_class=10, *, predicted=None, trained_on=frozenset(), per_lesion=1, runs=1, **facts):
    facts = {"source": "isic2018", "split": "all", "lesions": 70, "lesions_trained_on": 0, **facts}
    facts = {"images": 7 * images_per_class, "images_trained_on": None, **facts}
    labels = np.repeat(np.arange(7), images_per_class)
    predictions = SimpleNamespace(
        images=np.arange(len(labels)),
        lesions=np.arange(len(labels)) // per_lesion,
        labels=labels,
        predicted=labels if predicted is None else predicted,
        class_names=NAMES,
    )
    return SimpleNamespace(
        facts=facts, predictions=predictions, runs=[make_model(images=trained_on) for _ in range(runs)]
    )


def test_a_sound_evaluation_has_no_warnings():
    assert list_warnings(make_evaluation()) == []


def test_models_of_different_settings_are_a_warning():
    evaluation = make_evaluation(runs=2)
    evaluation.runs[1].config["data"] = {"split": "fold:2/5", "resize": "stretch"}  # a key of a later version
    assert list_warnings(evaluation) == []
    for model, rate in zip(evaluation.runs, (0.1, 0.2), strict=True):
        model.config["optimizer"] = {"learning_rate": rate}
    assert list_warnings(evaluation) == [
        "The models were trained with different settings: optimizer.learning_rate (0.1, 0.2). The joint metrics do not "
        "describe a single recipe."
    ]


def test_synthetic_images_are_the_only_warning_about_the_sample():
    assert list_warnings(make_evaluation(source="sample")) == ["These images are synthetic. They are not medical data."]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "training", "lesions_trained_on": 70}, "The model was trained on these images"),
        ({"images_trained_on": 5}, "5 of the 70 images are in the training set"),
        ({"lesions_trained_on": None}, "It is not known whether other images of these lesions are in the training set"),
        (
            {"lesions_trained_on": None, "images_trained_on": 0},
            "It is not known whether other images of these lesions are in the training set",
        ),
        ({"lesions_trained_on": 3}, "3 of the 70 lesions are in the training set"),
        (
            {"lesions": None, "lesions_trained_on": None, "images_trained_on": 0},
            "It is not known which of these images show the same lesion",
        ),
        (
            {"trained_on": None, "lesions_trained_on": None},
            "The images that these weights were trained on are not known",
        ),
        (
            {"predicted": np.repeat([0, 1, 2, 3, 4, 5, 0], 10)},
            "The recall is 0 for VASC (10 images): none of their images is recognized.",
        ),
        (
            {"images_per_class": 18, "per_lesion": 2},
            "Classes with fewer than 10 lesions: MEL 9, NV 9, BCC 9, AKIEC 9, BKL 9, DF 9, VASC 9",
        ),
        (
            {"runs": 2, "split": "validation"},
            "The images that each model is evaluated on were used to select the best checkpoint, so the metrics are "
            "optimistic: use --checkpoint=latest.",
        ),
    ],
)
def test_misleading_metrics_have_exactly_one_warning(changes, message):
    [warning] = list_warnings(make_evaluation(**changes))
    assert warning.startswith(message)


def test_images_whose_names_are_not_comparable_may_be_in_the_training_set():
    first, second = list_warnings(make_evaluation(lesions=None, lesions_trained_on=None, images_trained_on=None))
    assert first.startswith("It is not known whether these images are in the training set. If so, the metrics are")
    assert second.startswith("It is not known which of these images show the same lesion")


def test_a_recall_of_zero_is_the_first_warning():
    warnings = list_warnings(make_evaluation(9, predicted=np.zeros(63, int), source="sample"))
    assert len(warnings) == 3
    assert warnings[0].startswith("The recall is 0 for NV (9 images), BCC (9 images), ")


def test_at_most_ten_of_many_classes_are_named():
    evaluation = make_evaluation(source="folders")
    evaluation.predictions.class_names = names = tuple(f"species {i:02}" for i in range(25))
    evaluation.predictions.labels = evaluation.predictions.images = evaluation.predictions.lesions = np.arange(25)
    evaluation.predictions.predicted = np.zeros(25, int)
    missed, rare = list_warnings(evaluation)
    listed = ", ".join(f"{name} (1 image)" for name in names[1:11])
    assert missed == f"The recall is 0 for {listed} and 14 more: none of their images is recognized."
    assert rare.startswith("Classes with fewer than 10 lesions: species 00 1, ")
    assert " species 09 1 and 15 more. " in rare


def test_classes_without_images_are_named():
    evaluation = make_evaluation()
    evaluation.predictions.labels = evaluation.predictions.predicted = np.repeat(np.arange(5), 14)
    [warning] = list_warnings(evaluation)
    assert warning.startswith("There are no images of DF, VASC: means over classes, ")
    assert warning.endswith(" are over the other 5 of 7 classes.")


def test_limits_of_the_archive_apply_to_its_images_only():
    own, isic = (list_limits(make_model(is_isic=is_isic)) for is_isic in (False, True))
    assert set(own) < set(isic)
    assert any("skin tones" in limit for limit in set(isic) - set(own))


def test_limits_mention_skin_and_checkpoints_only_where_there_are_any():
    other = " ".join(list_limits(make_model(shows_lesions=False, is_isic=False)))
    assert "skin" not in other
    assert "best checkpoint" in other
    for model in (make_model(images=None), make_model(split="all"), make_model(checkpoint="latest")):
        assert "best checkpoint" not in " ".join(list_limits(model))


@pytest.mark.parametrize(
    ("checkpoint", "settings", "uses"),
    [
        ("best", {"early_stopping": {"enabled": True, "monitor": "train_loss"}}, ""),
        (
            "best",
            {"early_stopping": {"enabled": True, "monitor": "val_loss"}},
            "used to select the best checkpoint and to stop training early, so",
        ),
        (
            "latest",
            {"early_stopping": {"enabled": True, "monitor": "val_loss"}, "optimizer": {"schedule": "plateau"}},
            "used to stop training early and to lower the learning rate, so",
        ),
        ("latest", {"early_stopping": {"enabled": False, "monitor": "val_loss"}}, ""),
    ],
)
def test_limits_name_the_uses_of_the_validation_split(checkpoint, settings, uses):
    model = make_model(checkpoint=checkpoint)
    model.config |= settings
    text = " ".join(list_limits(model))
    assert uses in text if uses else "validation split" not in text


def test_limits_state_the_assumed_class_frequencies():
    assert "of equally common classes" in list_limits(make_model(prior="of equally common classes"))
