import json
import math
import os
import shutil
import time

import filelock
import pytest

from mobilenet_jax.errors import ConfigError, TrainingError, WorkdirError
from mobilenet_jax.sweeps.cross_validation import CrossValidation, EvaluationOptions, run_cross_validations
from mobilenet_jax.sweeps.runner import Runner
from tests.helpers.fake_runs import FakeRunner
from tests.helpers.runs import OVERRIDES

OPTIONS = EvaluationOptions(views=2, correction="prior", resamples=7)


@pytest.fixture
def runner():
    return FakeRunner()


def test_the_folds_are_trained_then_evaluated_together(runner, tmp_path):
    validation = CrossValidation(tmp_path / "out", "sample", ("--config.train.epochs=3",), 2)
    run_cross_validations([validation], tmp_path / "out", runner, OPTIONS)
    *runs, evaluation = runner.calls
    out = tmp_path / "out"
    assert evaluation == (
        f"evaluate {out / 'fold1'} {out / 'fold2'} --folds --checkpoint=latest "
        f"--out={out / 'evaluation' / 'validation-tta2-prior'} --tta=2 --resamples=7 --correct=prior"
    )
    for fold, line in enumerate(runs, 1):
        assert line == (
            f"train --config=sample --workdir={out / f'fold{fold}'} --config.train.epochs=3 "
            f"--config.data.split=fold:{fold}/2"
        )


def test_an_evaluation_has_the_image_size_of_its_options(tmp_path):
    validation = CrossValidation(tmp_path, "sample", (), 2)
    job = validation.make_evaluation_job(OPTIONS._replace(image_size=64))
    assert "--image-size=64" in job.arguments
    assert f"--out={tmp_path / 'evaluation' / 'validation-64px-tta2-prior'}" in job.arguments


def test_finished_runs_and_current_evaluations_are_skipped(runner, tmp_path):
    validation, out = CrossValidation(tmp_path / "out", "sample", (), 2), tmp_path / "out"

    def run_again(validation=validation, options=OPTIONS):
        runner.calls.clear()
        run_cross_validations([validation], out, runner, options)
        return [line.split()[0] for line in runner.calls]

    assert run_again() == ["train", "train", "evaluate"]
    assert run_again() == []
    assert validation.is_evaluated(OPTIONS)
    assert not validation._replace(overrides=("--config.augment.mixup=0.2",)).is_evaluated(OPTIONS), "of other settings"
    assert run_again(options=OPTIONS._replace(resamples=8)) == ["evaluate"]
    (out / "fold2" / "summary.json").unlink()  # the run was stopped
    assert run_again() == ["train", "evaluate"]
    for hours in (1, -1):  # it was trained again, on a machine with another clock
        summary = json.loads((out / "fold1" / "summary.json").read_text())
        (out / "fold1" / "summary.json").write_text(json.dumps({**summary, "seconds": hours}))
        os.utime(out / "fold1" / "summary.json", (then := time.time() + 3600 * hours, then))
        assert run_again() == ["evaluate"]
        assert run_again() == []
    assert run_again(validation._replace(overrides=("--config.train.epochs=9",))) == ["train", "train", "evaluate"]


def test_runs_without_checkpoints_are_trained_again_if_an_evaluation_needs_them(runner, tmp_path):
    validation, out = CrossValidation(tmp_path / "out", "sample", (), 2), tmp_path / "out"
    run_cross_validations([validation], out, runner, OPTIONS)
    for fold in ("fold1", "fold2"):
        shutil.rmtree(out / fold / "checkpoints")
    runner.calls.clear()
    run_cross_validations([validation], out, runner, OPTIONS)
    assert runner.calls == []
    run_cross_validations([validation], out, runner, OPTIONS._replace(views=4))
    assert [line.split()[0] for line in runner.calls] == ["train", "train", "evaluate"]


def test_a_run_that_is_being_extended_is_not_finished(runner, tmp_path):
    validation = CrossValidation(tmp_path / "out", "sample", ("--config.train.epochs=5",), 2)
    run_cross_validations([validation], tmp_path / "out", runner, OPTIONS)
    longer = validation._replace(overrides=("--config.train.epochs=10",)).list_runs()[0]
    config = json.loads((longer.workdir / "config.json").read_text())
    config["train"]["epochs"] = 10  # written when the run continued
    (longer.workdir / "config.json").write_text(json.dumps(config))
    assert not longer.is_finished()
    assert not validation.list_runs()[0].is_finished(), "its last checkpoint can be of a later epoch"
    summary = json.loads((longer.workdir / "summary.json").read_text())
    (longer.workdir / "summary.json").write_text(json.dumps({**summary, "stopped_early": True}))
    assert longer.is_finished()


@pytest.mark.parametrize(("schedule", "is_finished"), [("cosine", False), ("constant", True)])
def test_a_run_that_stopped_early_is_finished_unless_its_schedule_depends_on_the_epochs(
    runner, tmp_path, schedule, is_finished
):
    overrides = (f"--config.optimizer.schedule={schedule}", "--config.early_stopping.enabled=True")
    validation = CrossValidation(tmp_path / "out", "sample", (*overrides, "--config.train.epochs=60"), 2)
    run_cross_validations([validation], tmp_path / "out", runner, OPTIONS)
    run = validation.list_runs()[0]
    summary = json.loads((run.workdir / "summary.json").read_text())
    (run.workdir / "summary.json").write_text(json.dumps({**summary, "last": {"epoch": 25}, "stopped_early": True}))
    assert run.is_finished()
    for epochs, expected in ((40, is_finished), (20, False)):
        other = run._replace(overrides=(*run.overrides, f"--config.train.epochs={epochs}"))
        assert other.is_finished() == expected


def test_a_number_of_epochs_from_the_data_is_compared(runner, tmp_path):
    validation = CrossValidation(tmp_path / "out", "finetune", ("--config.data.dir=x",), 2)
    run_cross_validations([validation], tmp_path / "out", runner, OPTIONS)
    run = validation.list_runs()[0]  # 2,000 images, batches of 16: 15 epochs have more than 1,500 steps
    assert run.is_finished()
    assert not run._replace(overrides=(*run.overrides, "--config.train.epochs=14")).is_finished()
    assert not run._replace(overrides=(*run.overrides, "--config.train.batch_size=4000")).is_finished()
    for damaged in ("[]", "{", '{"last": 3}'):
        (run.workdir / "summary.json").write_text(damaged)
        assert not run.is_finished()


def test_a_failed_fold_does_not_prevent_the_evaluation_of_others(runner, tmp_path):
    runner.failing = tmp_path / "out" / "a" / "fold2"
    both = [CrossValidation(tmp_path / "out" / name, "sample", (), 2) for name in "ab"]
    with pytest.raises(TrainingError, match="1 command failed, the first with: the loss is nan"):
        run_cross_validations(both, tmp_path / "out", runner, OPTIONS)
    assert [c.is_evaluated(OPTIONS) for c in both] == [False, True]


def test_a_command_that_does_not_wait_is_an_error(tmp_path):
    validation = CrossValidation(tmp_path / "out", "sample", (), 2)
    with pytest.raises(ConfigError, match="runs are not complete: --command must wait"):
        run_cross_validations([validation], tmp_path / "out", Runner(2, "true {command}"), OPTIONS)


def test_a_command_that_does_not_wait_for_the_evaluation_is_an_error(runner, tmp_path):
    validation = CrossValidation(tmp_path / "out", "sample", (), 2)
    run_cross_validations([validation], tmp_path / "out", runner, OPTIONS)
    with pytest.raises(ConfigError, match="runs are not complete: --command must wait"):
        run_cross_validations(
            [validation], tmp_path / "out", Runner(2, "true {command}"), OPTIONS._replace(resamples=8)
        )


@pytest.mark.parametrize("override", ["seed={fold}", "data.source=sample{fold}"])
def test_settings_that_determine_the_folds_must_be_equal(runner, tmp_path, override, monkeypatch):
    monkeypatch.setattr("mobilenet_jax.sweeps.cross_validation.check_config", lambda config: None)
    validation = CrossValidation(tmp_path / "out", "sample", (f"--config.{override}",), 2)
    with pytest.raises(ConfigError, match=r"the folds must have the same config\.seed and config\.data\.source"):
        run_cross_validations([validation], tmp_path / "out", runner, OPTIONS)
    assert runner.calls == []


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("optimizer.schedule=plateau", "optimizer.schedule=plateau"),
        ("early_stopping.enabled=True", "early_stopping.monitor=val_loss"),
    ],
)
def test_settings_that_use_the_evaluated_fold_raise_a_warning(runner, tmp_path, setting, named, caplog):
    validation = CrossValidation(tmp_path / "out", "sample", (f"--config.{setting}",), 2)
    run_cross_validations([validation], tmp_path / "out", runner, OPTIONS)
    assert f"config.{named} uses the fold that is evaluated, so the results are optimistic" in caplog.text
    caplog.clear()
    on_training = ("--config.early_stopping.enabled=True", "--config.early_stopping.monitor=train_loss")
    run_cross_validations([validation._replace(overrides=on_training)], tmp_path / "out", runner, OPTIONS)
    assert "optimistic" not in caplog.text


def test_a_folder_belongs_to_one_process_at_a_time(runner, tmp_path):
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(WorkdirError, match="in use by another process"):
        run_cross_validations([CrossValidation(tmp_path, "sample", (), 2)], tmp_path, runner, OPTIONS)


def test_the_split_cannot_be_set(tmp_path, run):
    status, _, err = run("cross-validate", "--config=sample", "--out", tmp_path, "--config.data.split=lesion")
    assert (status, err) == (1, "error: config.data.split is set for each fold: leave it out\n")


def test_a_configuration_is_validated_before_the_first_run(runner, tmp_path):
    valid, invalid = (CrossValidation(tmp_path / f"{a}", "sample", (f"--config.model.alpha={a}",), 2) for a in (1, 0.3))
    with pytest.raises(ConfigError, match=r"config\.model\.alpha is 0\.3"):
        run_cross_validations([valid, invalid], tmp_path, runner, OPTIONS)
    assert runner.calls == []


def test_another_image_size_requires_a_head_for_any_size(runner, tmp_path):
    validation = CrossValidation(tmp_path / "out", "isic2018", ("--config.data.dir=x",), 2)
    with pytest.raises(ConfigError, match=r"--image-size requires config\.model\.head=small, not article"):
        run_cross_validations([validation], tmp_path / "out", runner, OPTIONS._replace(image_size=256))
    assert runner.calls == []


@pytest.mark.parametrize(
    ("options", "message"), [({"views": 9}, "--tta is 9, but images have at most 8"), ({"image_size": 5}, "size is 5")]
)
def test_options_of_the_evaluation_are_validated_before_the_first_run(runner, tmp_path, options, message):
    validation = CrossValidation(tmp_path / "out", "sample", (), 2)
    with pytest.raises(ConfigError, match=message):
        run_cross_validations([validation], tmp_path / "out", runner, OPTIONS._replace(**options))
    assert runner.calls == []


def test_soft_labels_can_be_those_of_the_fold(runner, tmp_path, caplog):
    def load_tables(name):
        overrides = (f"--config.loss.soft_labels={tmp_path / name}",)
        validation = CrossValidation(tmp_path / name, "sample", overrides, 2)
        run_cross_validations([validation], tmp_path / "out", runner, OPTIONS)
        return [run.load_config().loss.soft_labels for run in validation.list_runs()]

    assert load_tables("teacher{fold}.csv") == [str(tmp_path / f"teacher{fold}.csv") for fold in (1, 2)]
    assert caplog.text == ""
    assert load_tables("teacher.csv") == [str(tmp_path / "teacher.csv")] * 2
    assert "is the same for all folds" in caplog.text


def test_undefined_intervals_are_read_as_nan(tmp_path):
    validation = CrossValidation(tmp_path / "out", "sample", (), 2)
    folder = validation.get_evaluation_folder(OPTIONS)
    folder.mkdir(parents=True)
    content = {"metrics": {"a": None, "b": 0.5}, "intervals": {"a": [None, None], "b": [0.4, 0.6]}}
    (folder / "metrics.json").write_text(json.dumps(content))
    results = validation.read_results(OPTIONS)
    assert math.isnan(results["metrics"]["a"])
    assert all(map(math.isnan, results["intervals"]["a"]))
    assert results["intervals"]["b"] == [0.4, 0.6]


@pytest.mark.slow
def test_a_cross_validation_on_images(data, tmp_path, run):
    """Trains two folds as processes, twice: the second time, everything is finished."""
    overrides = [
        f"--config.{key}={value}" for key, value in {**OVERRIDES, "data.dir": data, "init.weights": ""}.items()
    ]
    command = ["cross-validate", "--config=isic2018", f"--out={tmp_path / 'cv'}", "--folds=2", "--resamples=5"]
    status, out, err = run(*command, *overrides)
    assert (status, err) == (0, "")
    assert "2 of 2: " in out
    assert "balanced accuracy" in out
    assert out.endswith(f"{tmp_path / 'cv' / 'evaluation' / 'validation' / 'report.html'}\n")
    status, again, _ = run(*command, *overrides)
    assert status == 0
    assert again.startswith("2 of 2 runs are finished\n")
    assert again.splitlines()[1:] == out.splitlines()[-len(again.splitlines()) + 1 :]
