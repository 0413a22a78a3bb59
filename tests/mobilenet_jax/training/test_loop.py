import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from configs.mobilenet import get_config
from input_pipeline.errors import DataError
from input_pipeline.sources.isic import CLASS_NAMES
from mobilenet_jax.errors import ConfigError, TrainingError, WeightsError, WorkdirError
from mobilenet_jax.training.checkpoints import Checkpoints
from mobilenet_jax.training.loop import Run, train_and_evaluate
from mobilenet_jax.training.setup import init_model, load_examples
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import load_pretrained, read_weights
from mobilenet_jax.weights.save import write_weights
from mobilenet_jax.weights.weights_file import Metadata
from tests.helpers.datasets import write_isic
from tests.helpers.runs import ROOT, TIMED, data_settings, make_command, make_config, read_records


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_isic(tmp_path_factory.mktemp("data") / "isic")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A workdir of two epochs; tests copy it before they change it."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train_and_evaluate(make_config(data), workdir)
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_workdir_holds_all_that_is_promised(finished, data):
    assert {p.name for p in finished.iterdir()} == {
        "config.json", "splits.csv", "parameters.txt", "metrics.jsonl", "summary.json", "curves.png", "tensorboard",
        "checkpoints",
    }  # fmt: skip
    assert json.loads((finished / "config.json").read_text()) == make_config(data).to_dict()
    records = read_records(finished, timed=True)
    train, val = ([f"{s}_{m}" for m in ("loss", "accuracy", "balanced_accuracy")] for s in ("train", "val"))
    names = ["epoch", "step", *train, "train_objective", *val, "learning_rate", *TIMED]
    assert all(list(r) == names for r in records)
    assert [(r["epoch"], r["step"]) for r in records] == [(1, 3), (2, 6)]  # 28 training images, 8 a batch
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["last"] == records[-1]
    assert summary["best"] == max(records, key=lambda r: (r["val_balanced_accuracy"], r["epoch"]))
    assert (summary["training_images"], summary["validation_images"]) == (28, 14)
    with Image.open(finished / "curves.png") as curves:
        assert curves.size == (1200, 360)
    kept = {int(p.name) for p in (finished / "checkpoints").iterdir()}
    assert kept == {3, 6}, "the last two, one of which is the best"


def test_a_runs_split_can_be_given_to_another_and_one_that_parts_lesions_warns(data, finished, capsys):
    split = finished / "splits.csv"
    _, validation = load_examples(*data_settings(make_config(data)))
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith("lesions on both sides: 0")
    assert hashlib.sha256(split.read_bytes()).hexdigest()[:12] in out
    _, again = load_examples(*data_settings(make_config(data, data__split=str(split), seed=5)))
    assert again.paths.tolist() == validation.paths.tolist()
    load_examples(*data_settings(make_config(data, data__split="last:0.31")))
    split_line, warning = capsys.readouterr().out.splitlines()[-2:]
    assert split_line.endswith("lesions on both sides: 1")
    assert warning.startswith("warning: lesions that were trained on are validated on")


def test_validation_accuracy_counts_every_example_once(finished):
    for record in read_records(finished):  # 14 examples, 8 a batch: fractions of 14 and no others
        assert record["val_accuracy"] * 14 == pytest.approx(round(record["val_accuracy"] * 14))


def test_one_run_equals_one_that_was_lengthened(data, workdir, tmp_path):
    train_and_evaluate(make_config(data, train__epochs=4), workdir)
    train_and_evaluate(make_config(data, train__epochs=4), tmp_path / "whole")
    assert read_records(workdir) == read_records(tmp_path / "whole")
    assert json.loads((workdir / "config.json").read_text())["train"]["epochs"] == 4


def test_a_finished_run_only_reports(data, workdir, capsys):
    before = read_records(workdir, timed=True)
    train_and_evaluate(make_config(data), workdir)
    assert read_records(workdir, timed=True) == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith("best: epoch ")
    assert str(workdir / "curves.png") in lines[-2]
    assert str(workdir / "checkpoints") in lines[-1]


def test_figures_lost_after_the_checkpoint_come_back(data, workdir):
    before = read_records(workdir, timed=True)
    (workdir / "metrics.jsonl").write_text("half a li")
    train_and_evaluate(make_config(data), workdir)
    assert read_records(workdir, timed=True) == before


def test_another_configuration_is_refused_with_the_difference(data, workdir):
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    with pytest.raises(WorkdirError, match=r"another configuration \(optimizer.learning_rate: 0.001 -> 0.5\)"):
        train_and_evaluate(make_config(data, optimizer__learning_rate=0.5), workdir)
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


def test_a_run_whose_rates_follow_from_its_length_cannot_be_lengthened(data, workdir):
    (workdir / "config.json").write_text(json.dumps(make_config(data, optimizer__schedule="cosine").to_dict()))
    with pytest.raises(WorkdirError, match=r"another configuration \(train.epochs: 2 -> 3\)"):
        train_and_evaluate(make_config(data, optimizer__schedule="cosine", train__epochs=3), workdir)


def test_other_images_are_refused_on_resume(workdir, data, tmp_path):
    changed = shutil.copytree(data, tmp_path / "isic")
    config = make_config(changed, train__epochs=3)
    (workdir / "config.json").write_text(before := json.dumps(make_config(changed).to_dict()))
    truth = next(changed.glob("*/*GroundTruth.csv"))
    truth.write_text(truth.read_text().replace("ISIC_0000003", "X").replace("ISIC_0000008", "ISIC_0000003").replace("X", "ISIC_0000008"))  # fmt: skip # noqa: E501
    groups = next(changed.glob("*Groupings.csv"))
    groups.write_text(groups.read_text().replace("ISIC_0000003", "X").replace("ISIC_0000008", "ISIC_0000003").replace("X", "ISIC_0000008"))  # fmt: skip # noqa: E501
    with pytest.raises(WorkdirError, match="the images or their labels are not those"):
        train_and_evaluate(config, workdir)
    assert (workdir / "config.json").read_text() == before


def test_a_run_killed_before_its_first_checkpoint_finds_its_folder_again(data, tmp_path, monkeypatch):
    def die(folder):
        folder.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mobilenet_jax.training.loop.Checkpoints", die)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(make_config(data), tmp_path / "run")
    train_and_evaluate(make_config(data, train__epochs=1), tmp_path / "run")
    assert len(read_records(tmp_path / "run")) == 1


def test_fewer_epochs_than_done_are_refused(data, workdir):
    with pytest.raises(WorkdirError, match=r"holds 2 epochs, more than config\.train\.epochs=1"):
        train_and_evaluate(make_config(data, train__epochs=1), workdir)
    assert json.loads((workdir / "config.json").read_text())["train"]["epochs"] == 2


@pytest.mark.parametrize("content", ["[]", "{", "3"])
def test_a_config_json_that_is_none_is_refused(data, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WorkdirError, match="config.json cannot be read"):
        train_and_evaluate(make_config(data), tmp_path)


def test_an_image_that_goes_away_while_training_is_named(data, tmp_path, monkeypatch):
    copy = shutil.copytree(data, tmp_path / "isic")
    monkeypatch.setattr(
        "mobilenet_jax.training.loop.init_model",
        lambda *args: shutil.rmtree(next(copy.glob("*_Input"))) or init_model(*args),
    )
    with pytest.raises(DataError, match=r"ISIC_00000\d\d.jpg"):
        train_and_evaluate(make_config(copy), tmp_path / "run")


def test_a_folder_that_holds_something_else_is_left_alone(data, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(WorkdirError, match="exists and holds no run"):
        train_and_evaluate(make_config(data), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_disk_that_is_too_full_is_refused_before_the_first_step(data, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1_000_000))
    with pytest.raises(WorkdirError, match=r"1\.0 MB free and checkpoints need \d\.\d MB"):
        train_and_evaluate(make_config(data), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_disk_that_fills_up_stops_the_run_between_epochs_and_it_goes_on(data, workdir, monkeypatch, capsys):
    config = make_config(data, train__epochs=4)
    real = shutil.disk_usage
    full = lambda path: shutil._ntuple_diskusage(10, 9, 1_000_000)  # noqa: E731
    save = Checkpoints.save

    def save_and_fill(*args):
        save(*args)
        monkeypatch.setattr("shutil.disk_usage", full)

    monkeypatch.setattr(Checkpoints, "save", save_and_fill)
    with pytest.raises(WorkdirError, match="start again, the run goes on after its last checkpoint"):
        train_and_evaluate(config, workdir)
    assert len(read_records(workdir)) == 3
    monkeypatch.setattr("shutil.disk_usage", real)
    monkeypatch.setattr(Checkpoints, "save", save)
    train_and_evaluate(config, workdir)
    assert "going on after epoch 3" in capsys.readouterr().out
    assert len(read_records(workdir)) == 4


def test_a_read_only_disk_is_refused(data):
    with pytest.raises(WorkdirError, match="cannot make /proc/run"):
        train_and_evaluate(make_config(data), "/proc/run")


def test_a_file_that_cannot_be_replaced_stays_whole(data, workdir, monkeypatch):
    before = (workdir / "metrics.jsonl").read_text()

    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(WorkdirError, match="No space left"):
        train_and_evaluate(make_config(data, train__epochs=3), workdir)
    assert (workdir / "metrics.jsonl").read_text() == before
    assert json.loads((workdir / "config.json").read_text())["train"]["epochs"] == 2


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(data, tmp_path):
    with pytest.raises(TrainingError, match=r"loss is (nan|-?inf) at step \d+ \(epoch 1\), where the .* 1e\+30; none"):
        train_and_evaluate(make_config(data, optimizer__learning_rate=1e30), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train__batch_size": 29}, ConfigError, "more than the training images"),
        ({"model__num_classes": 5}, ConfigError, "num_classes is 5, the data have 7"),
        ({"init__weights": "nowhere.h5"}, WeightsError, "nowhere.h5: no such file of weights"),
        ({"data__dir": "nowhere"}, DataError, "no such data folder: nowhere"),
    ],
)
def test_wrong_inputs_are_found_before_anything_is_written(data, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train_and_evaluate(make_config(data, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_of_another_alpha_are_refused(data, tmp_path, weights):
    with pytest.raises(WeightsError, match="alpha 0.25; the model has alpha 0.5"):
        train_and_evaluate(make_config(data, model__alpha=0.5, init__weights=str(weights[0.25])), tmp_path / "run")


def test_pretrained_weights_replace_the_backbone_and_only_that(data, weights):
    _, variables, scaling = init_model(
        make_config(data, init__weights=str(weights[0.25])), jax.random.key(0, impl="rbg")
    )
    assert scaling == (0, 1), "the article's, unless the configuration follows the weights"
    _, pretrained = load_pretrained(weights[0.25])
    assert set(variables["params"]) == {*pretrained["params"], "predictions"}
    for collection in ("params", "batch_stats"):
        for layer, tensors in pretrained[collection].items():
            for name, value in tensors.items():
                np.testing.assert_array_equal(variables[collection][layer][name], value)


def test_a_run_starts_from_the_backbone_of_another_run_scaled_as_that_was(data, finished, tmp_path, capsys):
    changes = {"init__weights": str(finished), "init__input_scaling": "weights", "train__epochs": 1}
    train_and_evaluate(make_config(data, model__frozen_blocks=13, model__head="article", **changes), tmp_path / "run")
    out = capsys.readouterr().out
    assert f"backbone from {finished}; pixels scaled to [0, 1]" in out
    assert "model: 1,319,943 trainable parameters of 1,533,015 (213,072 backbone, 1,319,943 head)" in out
    second = read_weights(tmp_path / "run")
    assert second.architecture == Architecture(0.25, "article", 7, 1)
    for name, value in read_weights(finished, head=False).tensors.items():
        np.testing.assert_array_equal(second.tensors[name], value)


def test_augmented_on_the_device_a_run_sees_what_it_would_on_the_host(data, tmp_path):
    """One step, of all images: from random weights a difference of rounding grows a hundredfold with every next one."""
    losses = {}
    for where in ("host", "device"):
        train_and_evaluate(
            make_config(data, augment__where=where, train__epochs=1, train__batch_size=28), tmp_path / where
        )
        [losses[where]] = [record["train_loss"] for record in read_records(tmp_path / where)]
    assert losses["device"] == pytest.approx(losses["host"], rel=1e-3)
    assert losses["device"] != losses["host"], "float32 rounds differently in the two"


def test_a_run_that_goes_on_scales_pixels_as_it_began(data, finished, tmp_path):
    weights = read_weights(finished)
    changes = {"init__weights": str(tmp_path / "w.safetensors"), "init__input_scaling": "weights"}
    write_weights(tmp_path / "w.safetensors", weights)
    train_and_evaluate(make_config(data, train__epochs=1, **changes), tmp_path / "run")
    other = dataclasses.replace(weights, metadata=Metadata(input_scaling=(-1, 1)))
    write_weights(tmp_path / "w.safetensors", other, force=True)
    train_and_evaluate(make_config(data, train__epochs=2, **changes), tmp_path / "run")
    assert read_weights(tmp_path / "run", checkpoint="latest").metadata.input_scaling == (0, 1)


def test_a_workdirs_weights_are_those_of_its_best_or_latest_checkpoint(data, finished):
    summary = json.loads((finished / "summary.json").read_text())
    key = jax.random.key(0, impl="rbg")
    run = Run(
        make_config(data), *init_model(make_config(data), key), key, load_examples(*data_settings(make_config(data)))
    )
    with Checkpoints(finished / "checkpoints") as checkpoints:
        run.resume(checkpoints, finished)
    latest = read_weights(finished, checkpoint="latest")
    assert latest.identity == f"latest checkpoint, step {summary['last']['step']}"
    trained = {"params": run.state.params, "batch_stats": run.state.batch_stats}
    jax.tree.map(np.testing.assert_array_equal, latest.variables, trained)
    assert latest.metadata == Metadata(
        (32, 32), (0, 1), CLASS_NAMES, f"run ({latest.identity})", latest.metadata.source_sha256
    )
    assert read_weights(finished).identity == f"best checkpoint, step {summary['best']['step']}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/mobilenet.py", "--config.train.epoch=3"], "did you mean config.train.epochs?"),
        (["--config=configs/mobilenet.py", "--config.train.epochs=many"], "invalid literal for int"),
        (["--config=configs/mobilenet.py:isic2019"], "the recipes are 'sample' and 'isic2018'"),
        (["--config=configs/none.py"], "configs/none.py"),
        (["--confg=configs/mobilenet.py"], "'confg'"),
        ([], "--config=configs/mobilenet.py is missing"),
    ],
)
def test_a_wrong_command_ends_with_one_line_and_a_status(arguments, message):
    result = subprocess.run([sys.executable, "train.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.slow
def test_the_sample_is_learned_from_random_weights(tmp_path):
    summary = train_and_evaluate(get_config(), tmp_path / "run")
    assert summary["best"]["val_balanced_accuracy"] >= 0.60
    assert summary["seconds"] < 180


def test_a_terminal_shows_a_bar(data, tmp_path):
    import pty
    import termios

    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    command = make_command(
        data, tmp_path / "run", "--config.train.epochs=1", "--config.data.image_size=160", "--config.train.batch_size=1"
    )
    process = subprocess.Popen(command, cwd=ROOT, stdout=child, stderr=child)
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    os.close(parent)
    for part in (b"epoch 1/1 ", b" left, loss ", b", accuracy ", b" images/s, ", b"best: epoch 1"):
        assert part in shown
