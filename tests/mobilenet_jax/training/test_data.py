import hashlib
import logging
import re
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.errors import DataError
from input_pipeline.sources.isic import INPUT
from mobilenet_jax.errors import ConfigError
from mobilenet_jax.evaluation.predictions import Predictions
from mobilenet_jax.training.data import add_soft_labels, check_same_data, check_validation, load_examples
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.training.losses import compute_logit_offset
from tests.helpers.datasets import write_photographs
from tests.helpers.runs import make_config


def _load(config):
    return load_examples(config.data, config.model.num_classes, config.seed)


def test_the_split_of_a_run_can_be_used_by_another_run(data, tmp_path, caplog):
    caplog.set_level("INFO")
    train_and_evaluate(make_config(data, train__epochs=1), tmp_path / "run")
    split = tmp_path / "run" / "splits.csv"
    caplog.clear()
    _, validation = _load(make_config(data))
    assert caplog.messages[-1].endswith("lesions in both subsets: 0")
    assert hashlib.sha256(split.read_bytes()).hexdigest()[:12] in caplog.messages[-1]
    _, again = _load(make_config(data, data__split=str(split), seed=5))
    assert again.paths.tolist() == validation.paths.tolist()


def test_a_split_depends_on_the_seed_and_has_its_fraction(data):
    first, other, large = (
        set(_load(make_config(data, **changes))[1].names.tolist())
        for changes in ({}, {"seed": 1}, {"data__val_fraction": 0.67})
    )
    assert first != other
    assert (len(first), len(large)) == (14, 28)


def test_a_split_with_lesions_in_both_subsets_warns(data, caplog):
    caplog.set_level("INFO")
    _load(make_config(data, data__split="last:0.31"))
    *_, split, warning, untrained = caplog.records
    assert split.getMessage().endswith("lesions in both subsets: 1")
    assert warning.levelname == "WARNING"
    assert warning.getMessage() == (
        "1 lesions are in both subsets, so validation metrics are optimistic; use data.split=lesion"
    )
    assert untrained.getMessage().startswith("there are no training images of DF, VASC, which the model cannot learn")


def test_the_advice_about_crossing_lesions_fits_given_subsets(tmp_path, caplog):
    names = [f"{side}/{name}/{side}{i}.png" for side in ("train", "val") for name in ("cat", "dog") for i in range(2)]
    write_photographs(tmp_path, [name.replace("/cat/", "/cat/c") for name in names])
    rows = [f"{'c' if '/cat/' in name else ''}{Path(name).stem},{Path(name).parent.name}" for name in names]
    (tmp_path / "lesions.csv").write_text("image,lesion_id\n" + "\n".join(rows) + "\n")
    _load(make_config(tmp_path, data__source="folders", model__num_classes=2))
    assert (
        "2 lesions are in both subsets, so validation metrics are optimistic; move all images of each lesion"
        in caplog.text
    )


def test_given_subsets_and_unknown_lesions_are_logged(tmp_path, caplog):
    caplog.set_level("INFO")
    names = [f"{side}/{name}/{i}.png" for side in ("train", "val") for name in ("cat", "dog") for i in range(2)]
    write_photographs(tmp_path, names[:7])
    _load(make_config(tmp_path, data__source="folders", model__num_classes=2))
    training, validation, split = caplog.messages[-3:]
    assert training == "training: 4 images (cat 2, dog 2)"
    assert validation == "validation: 3 images (cat 2, dog 1)"
    assert re.fullmatch(r"split given, hash \w{12}; it is not known which images show the same object", split)


def test_folds_that_ignore_given_subsets_warn(tmp_path, caplog):
    names = [f"{side}/{name}/{i}.png" for side in ("train", "val") for name in ("cat", "dog") for i in range(2)]
    write_photographs(tmp_path, names)
    _load(make_config(tmp_path, data__source="folders", data__split="fold:1/2", model__num_classes=2))
    assert "data.split=fold:1/2 ignores the subsets that the data assign" in caplog.messages


def test_damaged_images_are_skipped_on_request(tiny_isic, caplog):
    (tiny_isic / INPUT.format("Training") / "ISIC_0000003.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"ISIC_0000003.jpg .* is empty.*skip_damaged=True leaves out damaged images"):
        _load(make_config(tiny_isic))
    training, validation = _load(make_config(tiny_isic, data__skip_damaged=True))
    assert len(training) + len(validation) == 41
    assert "leaving out 1 of 42 images, which cannot be read:" in caplog.messages


def test_faults_of_tables_cannot_be_skipped(tiny_isic):
    (tiny_isic / INPUT.format("Training") / "ISIC_0000003.jpg").unlink()
    for skip_damaged in (False, True):
        with pytest.raises(DataError, match="ISIC_0000003") as error:
            _load(make_config(tiny_isic, data__skip_damaged=skip_damaged))
        assert "skip_damaged" not in str(error.value)


def test_without_validation_images_the_lesions_are_those_of_the_training_set(data, caplog):
    caplog.set_level(logging.INFO)
    _load(make_config(data, data__split="all"))
    training, split = caplog.messages
    assert training.startswith("training: 42 images of 21 lesions")
    assert split.endswith("lesions in both subsets: 0")


def test_another_number_of_classes_names_the_option(data):
    with pytest.raises(ConfigError, match="the data have 7 classes: use --config.model.num_classes=7"):
        _load(make_config(data, model__num_classes=3))


def test_settings_that_need_validation_images_are_refused_without_them(data):
    training, _ = _load(make_config(data, data__split="all"))
    none = training.take(np.arange(0))
    stopping = {"early_stopping__enabled": True, "data__split": "all"}
    check_validation(make_config(data, **stopping, early_stopping__monitor="train_loss"), none)
    with pytest.raises(ConfigError, match=r"config.early_stopping.monitor=val_loss needs them"):
        check_validation(make_config(data, **stopping, early_stopping__monitor="val_loss"), none)


def test_soft_labels_are_the_weighted_mean_of_labels_and_teacher(data, tmp_path):
    config = make_config(data)
    training, _ = load_examples(config.data, 7, 0)
    rng, n = np.random.default_rng(0), len(training)
    probabilities = rng.dirichlet(np.ones(7), n)
    reverse, order = training.class_names[::-1], rng.permutation(n)
    labels = 6 - training.labels
    teacher = Predictions(training.names, training.lesions, labels, probabilities[:, ::-1], reverse).take(order)
    config.loss.update(soft_labels=str(tmp_path / "teacher.csv"), soft_labels_weight=0.25)
    (tmp_path / "teacher.csv").write_text(teacher.to_csv())
    soft = add_soft_labels(training, config.loss).soft_labels
    np.testing.assert_allclose(soft, 0.75 * np.eye(7)[training.labels] + 0.25 * probabilities, atol=1e-6)
    config.loss.logit_adjustment = 0.5
    adjusted = probabilities * np.sqrt(np.bincount(training.labels, minlength=7))
    adjusted /= adjusted.sum(1, keepdims=True)
    soft = add_soft_labels(training, config.loss).soft_labels
    np.testing.assert_allclose(soft, 0.75 * np.eye(7)[training.labels] + 0.25 * adjusted, atol=1e-6)
    some = training.take(np.flatnonzero(training.labels != 3))  # the absent class is adjusted as by the loss
    soft = add_soft_labels(some, config.loss).soft_labels
    kept = probabilities[training.labels != 3] * np.exp(compute_logit_offset(some.labels, 7, 0.5))
    one_hot = np.eye(7)[some.labels]
    np.testing.assert_allclose(soft, 0.75 * one_hot + 0.25 * kept / kept.sum(1, keepdims=True), atol=1e-6)
    (tmp_path / "teacher.csv").write_text(teacher.take(np.arange(n - 2)).to_csv())
    with pytest.raises(ConfigError, match="lacks 2 training images, the first: ISIC"):
        add_soft_labels(training, config.loss)
    config.loss.soft_labels = ""
    assert add_soft_labels(training, config.loss) is training


def test_processes_that_read_other_images_are_refused(monkeypatch):
    check_same_data(["a", "b"])
    monkeypatch.setattr("mobilenet_jax.training.data.broadcast_text", lambda text: "a c")
    with pytest.raises(DataError, match="differ from those of process 0"):
        check_same_data(["a", "b"])
