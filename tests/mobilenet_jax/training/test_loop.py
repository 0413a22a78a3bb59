import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from input_pipeline.sources.isic import CLASS_NAMES
from mobilenet_jax import Metadata
from mobilenet_jax.errors import (
    ConfigError,
    DataError,
    EvaluationError,
    Interrupted,
    TrainingError,
    WeightsError,
    WorkdirError,
)
from mobilenet_jax.training.checkpoints import Checkpoints
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.training.setup import build_program
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.save import write_weights
from tests.helpers.runs import TIMED, make_config, read_records, request_stop


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Returns the workdir of a run of two epochs; it must not be changed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train_and_evaluate(make_config(data), workdir)
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    """Returns a copy of `finished`; it may be changed."""
    return shutil.copytree(finished, tmp_path / "run")


def test_a_run_writes_all_documented_files(finished, data):
    assert {p.name for p in finished.iterdir()} == {
        "config.json", "splits.csv", "parameters.txt", "metrics.jsonl", "summary.json", "curves.png", "tensorboard",
        "checkpoints", ".lock",
    }  # fmt: skip
    assert json.loads((finished / "config.json").read_text()) == make_config(data).to_dict()
    records = read_records(finished, timed=True)
    train, val = ([f"{s}_{m}" for m in ("loss", "accuracy", "balanced_accuracy")] for s in ("train", "val"))
    names = ["epoch", "step", *train, "train_objective", *val, "learning_rate", *TIMED]
    assert all(list(r) == names for r in records)
    assert [(r["epoch"], r["step"]) for r in records] == [(1, 3), (2, 6)]  # 28 training images, 8 per batch
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["last"] == records[-1]
    assert summary["best"] == max(records, key=lambda r: (r["val_balanced_accuracy"], r["epoch"]))
    assert (summary["training_images"], summary["validation_images"]) == (28, 14)
    assert summary["stopped_early"] is False
    with Image.open(finished / "curves.png") as curves:
        assert curves.size == (1200, 360)
    kept = {int(p.name) for p in (finished / "checkpoints").iterdir()}
    assert kept == {3, 6}, "the latest two, one of which is the best"


def test_every_validation_example_is_counted_once(finished):
    for record in read_records(finished):  # 14 examples, 8 per batch: only multiples of 1/14 are possible
        assert record["val_accuracy"] * 14 == pytest.approx(round(record["val_accuracy"] * 14))


def test_the_scale_of_the_plateau_reaches_the_steps_and_the_record(data, tmp_path, monkeypatch):
    monkeypatch.setattr("mobilenet_jax.training.loop.compute_plateau_scale", lambda *arguments: 0.0)
    config = make_config(data, train__epochs=1)
    train_and_evaluate(config, tmp_path / "run")
    assert read_records(tmp_path / "run")[0]["learning_rate"] == 0
    _, initial, _ = build_program(config, np.zeros(28, np.int32), steps_per_epoch=3)
    params = read_weights(tmp_path / "run").variables["params"]
    assert jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), params, initial.params))


def test_an_extended_run_equals_a_longer_one(data, workdir, tmp_path):
    train_and_evaluate(make_config(data, train__epochs=4), workdir)
    train_and_evaluate(make_config(data, train__epochs=4), tmp_path / "whole")
    assert read_records(workdir) == read_records(tmp_path / "whole")
    assert json.loads((workdir / "config.json").read_text())["train"]["epochs"] == 4


def test_a_finished_run_is_not_trained_again(data, workdir, caplog):
    caplog.set_level("INFO")
    before = read_records(workdir, timed=True)
    train_and_evaluate(make_config(data), workdir)
    assert read_records(workdir, timed=True) == before
    hint = "raise config.train.epochs to train longer, or choose another --workdir for a new one"
    assert f"the run in {workdir} is finished: {hint}" in caplog.messages
    best, metrics, checkpoints = caplog.messages[-3:]
    assert best.startswith("best: epoch ")
    assert str(workdir / "curves.png") in metrics
    assert str(workdir / "checkpoints") in checkpoints


def test_a_run_that_is_trained_again_is_not_finished_meanwhile(data, workdir, monkeypatch):
    shutil.rmtree(workdir / "checkpoints")
    request_stop(monkeypatch, 1)
    with pytest.raises(Interrupted):
        train_and_evaluate(make_config(data), workdir)
    assert not (workdir / "summary.json").exists()


def test_a_finished_run_that_cannot_be_extended_does_not_offer_it(data, tmp_path, caplog):
    """With the cosine schedule the number of epochs cannot be raised, and a run that stopped early stays stopped."""
    caplog.set_level("INFO")
    early_stop = {"early_stopping__enabled": True, "early_stopping__patience": 1, "early_stopping__min_delta": 9.0}
    for name, changes in (("cosine", {"optimizer__schedule": "cosine", "train__epochs": 1}), ("early", early_stop)):
        for _ in range(2):
            train_and_evaluate(make_config(data, model__frozen_blocks=13, **changes), tmp_path / name)
        assert f"the run in {tmp_path / name} is finished: choose another --workdir for a new one" in caplog.messages


def test_metrics_that_were_lost_after_the_checkpoint_are_restored(data, workdir):
    before = read_records(workdir, timed=True)
    (workdir / "metrics.jsonl").write_text("half a li")
    train_and_evaluate(make_config(data), workdir)
    assert read_records(workdir, timed=True) == before


def test_another_configuration_is_refused_with_the_differences(data, workdir):
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    with pytest.raises(WorkdirError, match=r"another configuration \(optimizer.learning_rate: 0.001 -> 0.5\)"):
        train_and_evaluate(make_config(data, optimizer__learning_rate=0.5), workdir)
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


def test_images_may_have_moved_before_a_run_continues(data, workdir, tmp_path, caplog):
    moved = shutil.copytree(data, tmp_path / "moved")
    train_and_evaluate(make_config(moved, data__cache="memory", train__epochs=3), workdir)
    assert len(read_records(workdir)) == 3
    assert f"{workdir} continues with images in {moved} instead of {data}" in caplog.messages


def test_a_run_whose_schedule_depends_on_its_length_cannot_be_extended(data, workdir):
    (workdir / "config.json").write_text(json.dumps(make_config(data, optimizer__schedule="cosine").to_dict()))
    with pytest.raises(WorkdirError, match=r"another configuration \(train.epochs: 2 -> 3\)"):
        train_and_evaluate(make_config(data, optimizer__schedule="cosine", train__epochs=3), workdir)


def _swap_images(table):
    text = table.read_text()
    table.write_text(
        text.replace("ISIC_0000003", "X").replace("ISIC_0000008", "ISIC_0000003").replace("X", "ISIC_0000008")
    )


def test_other_images_are_refused_on_resume(workdir, data, tmp_path):
    changed = shutil.copytree(data, tmp_path / "isic")
    config = make_config(changed, train__epochs=3)
    (workdir / "config.json").write_text(before := json.dumps(make_config(changed).to_dict()))
    _swap_images(next(changed.glob("*/*GroundTruth.csv")))
    _swap_images(next(changed.glob("*Groupings.csv")))
    with pytest.raises(WorkdirError, match="the images, their labels or their lesions are not those"):
        train_and_evaluate(config, workdir)
    assert (workdir / "config.json").read_text() == before


def test_a_run_that_was_killed_before_its_first_checkpoint_recognizes_its_folder(data, tmp_path, monkeypatch):
    def die(folder, compute_score):
        folder.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mobilenet_jax.training.loop.Checkpoints", die)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(make_config(data), tmp_path / "run")
    train_and_evaluate(make_config(data, train__epochs=1), tmp_path / "run")
    assert len(read_records(tmp_path / "run")) == 1


def test_fewer_epochs_than_finished_are_refused(data, workdir):
    with pytest.raises(WorkdirError, match=r"has reached epoch 2, more than config\.train\.epochs=1"):
        train_and_evaluate(make_config(data, train__epochs=1), workdir)
    assert json.loads((workdir / "config.json").read_text())["train"]["epochs"] == 2


def test_an_image_that_disappears_during_training_is_named(data, tmp_path, monkeypatch):
    copy = shutil.copytree(data, tmp_path / "isic")
    monkeypatch.setattr(
        "mobilenet_jax.training.loop.build_program",
        lambda *args, **options: shutil.rmtree(next(copy.glob("*_Input"))) or build_program(*args, **options),
    )
    with pytest.raises(DataError, match=r"ISIC_00000\d\d.jpg"):
        train_and_evaluate(make_config(copy), tmp_path / "run")


def test_a_folder_that_holds_something_else_is_not_changed(data, tmp_path, monkeypatch):
    """And no image is decoded before."""
    monkeypatch.setattr("mobilenet_jax.training.loop.open_cache", lambda *args: pytest.fail("too late"))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(WorkdirError, match="exists and does not hold a run"):
        train_and_evaluate(make_config(data), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_full_disk_is_reported_before_the_first_step(data, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1_000_000))
    with pytest.raises(WorkdirError, match=r"1\.0 MB free, but checkpoints need \d\.\d MB"):
        train_and_evaluate(make_config(data), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_stops_between_epochs_when_the_disk_fills_up_and_resumes(data, workdir, monkeypatch, caplog):
    caplog.set_level("INFO")
    config = make_config(data, train__epochs=4)
    real = shutil.disk_usage
    full = lambda path: shutil._ntuple_diskusage(10, 9, 1_000_000)  # noqa: E731
    save = Checkpoints.save

    def save_and_fill(*args):
        save(*args)
        monkeypatch.setattr("shutil.disk_usage", full)

    monkeypatch.setattr(Checkpoints, "save", save_and_fill)
    with pytest.raises(WorkdirError, match="start again, the run continues after its last checkpoint"):
        train_and_evaluate(config, workdir)
    assert len(read_records(workdir)) == 3
    monkeypatch.setattr("shutil.disk_usage", real)
    monkeypatch.setattr(Checkpoints, "save", save)
    train_and_evaluate(config, workdir)
    assert "resuming after epoch 3, step 9" in caplog.messages
    assert len(read_records(workdir)) == 4


def test_a_read_only_disk_is_refused(data):
    with pytest.raises(WorkdirError, match="cannot create /proc/run"):
        train_and_evaluate(make_config(data), "/proc/run")


def test_a_file_that_cannot_be_written_keeps_its_content(data, workdir, monkeypatch):
    before = (workdir / "metrics.jsonl").read_text()

    def fill_disk(self, content):
        with open(self, "wb") as file:
            file.write(content[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fill_disk)
    with pytest.raises(WorkdirError, match="No space left"):
        train_and_evaluate(make_config(data, train__epochs=3), workdir)
    assert (workdir / "metrics.jsonl").read_text() == before
    assert json.loads((workdir / "config.json").read_text())["train"]["epochs"] == 2


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path):
    with pytest.raises(TrainingError, match=r"loss is (nan|-?inf) at step \d+ \(epoch 1\), where the .* 1e\+30; no ch"):
        train_and_evaluate(make_config(data, optimizer__learning_rate=1e30), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train__batch_size": 29}, ConfigError, "but there are only 28 training images"),
        ({"model__num_classes": 5}, ConfigError, "num_classes is 5, but the data have 7 classes"),
        ({"init__weights": "nowhere.h5"}, WeightsError, "nowhere.h5: no such file or folder"),
        ({"data__dir": "nowhere"}, DataError, "no such data folder: nowhere"),
        ({"loss__soft_labels": "nowhere.csv"}, EvaluationError, r"nowhere\.csv"),
    ],
)
def test_invalid_inputs_are_reported_before_anything_is_written(data, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train_and_evaluate(make_config(data, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cache_that_does_not_fit_is_reported_before_anything_is_written(data, tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=0))
    with pytest.raises(DataError, match="memory"):
        train_and_evaluate(make_config(data, data__cache="memory"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_numbers_of_classes_and_epochs_are_taken_from_the_data(data, finished, tmp_path, monkeypatch):
    monkeypatch.setattr("mobilenet_jax.training.setup.choose_epochs", lambda steps_per_epoch: steps_per_epoch - 1)
    train_and_evaluate(make_config(data, model__num_classes=0, train__epochs=0), tmp_path / "run")
    assert read_records(tmp_path / "run") == read_records(finished)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (stored["model"]["num_classes"], stored["train"]["epochs"]) == (7, 2)
    resumed = train_and_evaluate(make_config(data, model__num_classes=0, train__epochs=0), tmp_path / "run")
    assert resumed["last"]["epoch"] == 2
    assert read_weights(tmp_path / "run").architecture.num_classes == 7


def test_weights_of_another_alpha_are_refused(data, tmp_path, weights):
    with pytest.raises(ConfigError, match=r"other settings: add --config\.model\.alpha=0\.25$"):
        train_and_evaluate(make_config(data, model__alpha=0.5, init__weights=str(weights[0.25])), tmp_path / "run")


def test_a_run_starts_from_the_backbone_and_the_scaling_of_another_run(data, finished, tmp_path, caplog):
    caplog.set_level("INFO")
    changes = {"init__weights": str(finished), "init__input_scaling": "weights", "train__epochs": 1}
    train_and_evaluate(make_config(data, model__frozen_blocks=13, model__head="article", **changes), tmp_path / "run")
    assert f"backbone from {finished}; input scaling [0, 1]" in caplog.messages
    size = "model: 1,319,943 trainable parameters of 1,533,015 (213,072 backbone, 1,319,943 head), on 1 cpu device(s)"
    assert size in caplog.messages
    second = read_weights(tmp_path / "run")
    assert second.architecture == Architecture(0.25, "article", 7, 1)
    for name, value in read_weights(finished, head=False).tensors.items():
        np.testing.assert_array_equal(second.tensors[name], value)


def test_augmentation_on_the_device_gives_the_loss_of_augmentation_on_the_host(data, tmp_path):
    """Trains one step on all images: from random weights, a rounding difference grows a hundredfold with every step."""
    changes = {"train__epochs": 1, "train__batch_size": 28, "model__frozen_blocks": 13, "model__batch_norm": "train"}
    losses = {}
    for place in ("host", "device"):
        train_and_evaluate(make_config(data, augment__where=place, **changes), tmp_path / place)
        [losses[place]] = [record["train_loss"] for record in read_records(tmp_path / place)]
    assert losses["device"] == pytest.approx(losses["host"], rel=1e-3)
    assert losses["device"] != losses["host"], "float32 rounds differently on the two"


@pytest.mark.parametrize("place", [pytest.param("host", marks=pytest.mark.slow), "device"])
def test_a_resumed_run_keeps_its_input_scaling(data, finished, tmp_path, place):
    weights, path = read_weights(finished), tmp_path / "w.safetensors"
    changes = {"init__weights": str(path), "init__input_scaling": "weights", "augment__where": place}
    write_weights(path, replace(weights, metadata=Metadata(input_scaling=(-1, 1))))
    for workdir, epochs in (("run", 1), ("whole", 2)):
        train_and_evaluate(make_config(data, train__epochs=epochs, **changes), tmp_path / workdir)
    write_weights(path, replace(weights, metadata=Metadata(input_scaling=(0, 1))), force=True)
    train_and_evaluate(make_config(data, train__epochs=2, **changes), tmp_path / "run")
    assert read_weights(tmp_path / "run", checkpoint="latest").metadata.input_scaling == (-1, 1)
    assert read_records(tmp_path / "run") == read_records(tmp_path / "whole")


def test_the_weights_of_a_workdir_are_those_of_its_checkpoints(data, finished):
    summary = json.loads((finished / "summary.json").read_text())
    config = make_config(data)
    _, state, _ = build_program(config, np.arange(7), steps_per_epoch=3)
    with Checkpoints(finished / "checkpoints", lambda history: 0.0) as checkpoints:
        state, _ = checkpoints.restore(state)
    latest = read_weights(finished, checkpoint="latest")
    assert latest.identity == f"latest checkpoint, step {summary['last']['step']}"
    jax.tree.map(
        np.testing.assert_array_equal, latest.variables, {"params": state.params, "batch_stats": state.batch_stats}
    )
    assert latest.metadata == Metadata(
        (32, 32), (0, 1), CLASS_NAMES, f"run ({latest.identity})", latest.metadata.source_sha256
    )
    assert read_weights(finished).identity == f"best checkpoint, step {summary['best']['step']}"


def test_resuming_does_not_need_the_initial_weights(data, weights, tmp_path):
    initial = Path(shutil.copy(weights[0.25], tmp_path / "initial.h5"))
    changes = {"init__weights": str(initial), "init__input_scaling": "weights"}
    train_and_evaluate(make_config(data, train__epochs=1, **changes), tmp_path / "run")
    initial.unlink()
    train_and_evaluate(make_config(data, train__epochs=2, **changes), tmp_path / "run")
    assert read_weights(tmp_path / "run").metadata.input_scaling == (-1.0, 1.0)
    assert len(read_records(tmp_path / "run")) == 2


def test_a_run_whose_checkpoints_disappear_does_not_start_over_without_its_initial_weights(
    data, weights, workdir, caplog, monkeypatch
):
    config = json.loads((workdir / "config.json").read_text())
    changes = {"init__weights": str(weights[0.25]), "init__input_scaling": "weights"}
    config["init"].update(weights=str(weights[0.25]), input_scaling="weights")
    (workdir / "config.json").write_text(json.dumps(config))

    def remove_checkpoints(*args, **options):
        shutil.rmtree(workdir / "checkpoints")
        return build_program(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("mobilenet_jax.training.loop.build_program", remove_checkpoints)
        with pytest.raises(WorkdirError, match="no checkpoint in .* was readable: start again for a new run"):
            train_and_evaluate(make_config(data, **changes), workdir)
    caplog.set_level("INFO")
    train_and_evaluate(make_config(data, **changes), workdir)
    assert [message for message in caplog.messages if message.startswith("backbone from")]
