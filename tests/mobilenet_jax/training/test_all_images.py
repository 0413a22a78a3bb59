"""Runs with `data.split=all`, which have no validation images."""

import pytest

from mobilenet_jax.errors import ConfigError, TrainingError
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.weights.load import read_weights
from tests.helpers.runs import make_config, read_records


def test_a_run_on_all_images_has_no_validation_and_its_last_epoch_is_the_best(data, tmp_path, run, caplog):
    workdir = tmp_path / "run"
    summary = train_and_evaluate(make_config(data, data__split="all"), workdir)
    assert summary["validation_images"] == 0
    assert summary["best"]["epoch"] == summary["last"]["epoch"] == 2
    for record in read_records(workdir):
        assert not any(name.startswith("val_") for name in record)
    assert "validation loss" not in caplog.text
    status, _, err = run("evaluate", workdir)
    assert (status, err) == (
        1,
        f"error: the run in {workdir} used all images for training: evaluate others, with --data=DIR --split=all, or "
        "--split=official:test of the ISIC archive\n",
    )
    assert run("evaluate", workdir, "--split=training", "--resamples=2")[0] == 0
    name = read_weights(workdir).identity
    assert name == f"best checkpoint, step {summary['last']['step']}"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"optimizer__schedule": "plateau"}, "optimizer.schedule=plateau"),
        ({"early_stopping__enabled": True}, "early_stopping.monitor=val_loss"),
    ],
)
def test_settings_that_need_validation_images_are_refused_without_them(data, tmp_path, changes, key):
    with pytest.raises(ConfigError, match=f"leaves no validation images, but config.{key} needs them"):
        train_and_evaluate(make_config(data, data__split="all", **changes), tmp_path / "run")


def test_parameters_that_are_not_finite_after_the_last_step_are_not_saved(data, tmp_path):
    """The loss of a step is that before its update, and no validation follows."""
    changes = {"train__epochs": 1, "train__batch_size": 42, "model__frozen_blocks": 13}
    config = make_config(data, data__split="all", optimizer__learning_rate=1e38, **changes)
    with pytest.raises(
        TrainingError, match=r"norm of the parameters is (nan|inf) at step 1 .*; no checkpoint has been"
    ):
        train_and_evaluate(config, tmp_path / "run")
