"""The commands `convert` and `predict`, run as a user runs them."""

import errno
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import h5py
import jax
import keras
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from configs.mobilenet import get_config
from input_pipeline.image_reader import read_images
from mobilenet_jax.errors import Interrupted
from mobilenet_jax.inference.classifier import Classifier
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.training.preemption import StopRequest
from mobilenet_jax.weights import save
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.save import write_weights
from mobilenet_jax.weights.weights_file import Metadata
from tests.helpers.datasets import write_isic
from tests.helpers.hostile_files import write_keras_2
from tests.helpers.keras_models import random_mobilenet, relative_error
from tests.helpers.runs import ROOT

IMAGENET = Architecture(0.25, "imagenet", 1000, 1)


@pytest.fixture
def source(tmp_path):
    return write_keras_2(tmp_path / "mobilenet_2_5_128_tf.h5", IMAGENET)


@pytest.mark.parametrize("name", ["w.safetensors", "w.weights.h5", "w"])
def test_convert_tells_what_it_read_and_wrote(run, source, tmp_path, name):
    status, out, err = run("convert", source, tmp_path / name)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"{source} (Keras HDF5) -> {tmp_path / name}",
        "MobileNet alpha 0.25, 475,544 values in 137 tensors, head 'imagenet' for 1000 classes; "
        "trained on images of 128x128, pixels scaled to [-1, 1]",
    ]
    assert read_weights(tmp_path / name).architecture == IMAGENET
    assert {p.name for p in tmp_path.iterdir()} == {source.name, name}


def test_a_dry_run_prints_where_each_tensor_goes_and_writes_nothing(run, source, tmp_path):
    status, out, _ = run("convert", source, tmp_path / "w.safetensors", "--dry-run")
    assert status == 0
    rows = [[cell for cell in line.split("  ") if cell] for line in out.splitlines()]
    assert len(rows) == 138
    assert [" ".join(cell.strip() for cell in rows[i]) for i in (0, 1, 6, 136)] == [
        "source target shape transform",
        "conv1/conv1/kernel:0 params.conv1.kernel (3, 3, 3, 8) none",
        "conv_dw_1/conv_dw_1/depthwise_kernel:0 params.conv_dw_1.kernel (3, 3, 1, 8) transpose (0, 1, 3, 2)",
        "conv_preds/conv_preds/kernel:0 params.conv_preds.kernel (1, 1, 256, 1000) none",
    ]
    out = run("convert", source, tmp_path / "w.weights.h5", "--dry-run", "--no-top")[1]
    assert len(out.splitlines()) == 136
    assert re.search(r"layers/depthwise_conv2d_12/vars/0 +\(3, 3, 256, 1\) +none\n", out)
    assert [p.name for p in tmp_path.iterdir()] == [source.name]
    assert "the name says what is written" in run("convert", source, tmp_path / "w.npz", "--dry-run")[2]


def test_a_dry_run_tells_where_the_articles_batch_normalizations_go(run, tmp_path):
    source = write_keras_2(tmp_path / "w.h5", Architecture(0.25, "article_bn", 7, 4))
    out = run("convert", source, tmp_path / "w.weights.h5", "--dry-run")[1]
    rows = [line.split() for line in out.splitlines()]
    assert [row[:2] for row in rows if row[0].startswith(("dense", "predictions"))] == [
        ["dense_1/dense_1/kernel:0", "layers/dense/vars/0"],
        ["dense_1/dense_1/bias:0", "layers/dense/vars/1"],
        ["dense_1_bn/dense_1_bn/gamma:0", "layers/batch_normalization_27/vars/0"],
        ["dense_1_bn/dense_1_bn/beta:0", "layers/batch_normalization_27/vars/1"],
        ["dense_1_bn/dense_1_bn/moving_mean:0", "layers/batch_normalization_27/vars/2"],
        ["dense_1_bn/dense_1_bn/moving_variance:0", "layers/batch_normalization_27/vars/3"],
        ["dense_2/dense_2/kernel:0", "layers/dense_1/vars/0"],
        ["dense_2/dense_2/bias:0", "layers/dense_1/vars/1"],
        ["dense_2_bn/dense_2_bn/gamma:0", "layers/batch_normalization_28/vars/0"],
        ["dense_2_bn/dense_2_bn/beta:0", "layers/batch_normalization_28/vars/1"],
        ["dense_2_bn/dense_2_bn/moving_mean:0", "layers/batch_normalization_28/vars/2"],
        ["dense_2_bn/dense_2_bn/moving_variance:0", "layers/batch_normalization_28/vars/3"],
        ["predictions/predictions/kernel:0", "layers/dense_2/vars/0"],
        ["predictions/predictions/bias:0", "layers/dense_2/vars/1"],
    ]
    assert run("convert", source, tmp_path / "w.safetensors")[1].endswith(
        "head 'article_bn' for 7 classes; trained on images of a size not known, pixels scaled to [-1, 1]\n"
    )


def test_the_classifier_is_left_out_and_the_scaling_said(run, source, tmp_path):
    run("convert", source, tmp_path / "w.safetensors", "--no-top", "--input-scaling", 0, 1)
    weights = read_weights(tmp_path / "w.safetensors")
    assert weights.architecture == Architecture(0.25, None, 0, 1)
    assert weights.metadata.input_scaling == (0, 1)
    assert "not a low and a higher number" in run("convert", source, tmp_path / "x", "--input-scaling", 1, 1)[2]


def test_nan_is_refused_unless_allowed(run, tmp_path):
    with h5py.File(write_keras_2(tmp_path / "nan.h5"), "r+") as file:
        file["conv_pw_3/conv_pw_3/kernel:0"][0, 0, 0, 0] = np.nan
    status, out, err = run("convert", tmp_path / "nan.h5", tmp_path / "w.safetensors")
    assert (status, out) == (1, "")
    assert err.endswith(
        "tensor conv_pw_3/conv_pw_3/kernel:0 holds NaN or infinity (mobilenet-jax convert --allow-nonfinite takes it)\n"
    )
    assert run("convert", tmp_path / "nan.h5", tmp_path / "w.safetensors", "--allow-nonfinite")[0] == 0
    assert np.isnan(
        read_weights(tmp_path / "w.safetensors", allow_nonfinite=True).tensors["params.conv_pw_3.kernel"]
    ).any()


@pytest.mark.parametrize("name", ["w.safetensors", "w.weights.h5", "w"])
def test_what_is_there_is_overwritten_only_by_force(run, source, tmp_path, name):
    run("convert", source, tmp_path / name, "--no-top")
    status, _, err = run("convert", source, tmp_path / name)
    assert status == 1
    assert err == f"error: {tmp_path / name} exists: choose another name, or overwrite it with --force (force=True)\n"
    assert read_weights(tmp_path / name).architecture.head is None
    assert run("convert", source, tmp_path / name, "--force")[0] == 0
    assert read_weights(tmp_path / name).architecture == IMAGENET


def test_force_does_not_overwrite_what_holds_no_weights(run, source, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").touch()
    for name in ("thesis", "thesis.safetensors"):
        (tmp_path / name).exists() or (tmp_path / name).mkdir()
        assert (
            "exists and holds no weights: choose another name" in run("convert", source, tmp_path / name, "--force")[2]
        )
    assert (tmp_path / "thesis" / "chapter1").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w.h5", "the name says what is written: NAME.safetensors, NAME.weights.h5 (Keras 3), or"),
        ("w.onnx", "the name says what is written"),
        ("nowhere/w.safetensors", "no such folder: "),
    ],
)
def test_a_destination_that_cannot_be_is_refused_first(run, source, tmp_path, name, message):
    status, out, err = run("convert", source, tmp_path / name)
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_folder_that_cannot_be_replaced_stays(run, source, tmp_path, monkeypatch):
    run("convert", source, tmp_path / "w", "--no-top")
    replace_ = os.replace

    def fail_to_place(a, b):
        if Path(b) == tmp_path / "w" and Path(a).name == "w":
            raise OSError(errno.EIO, "Input/output error")
        replace_(a, b)

    monkeypatch.setattr("os.replace", fail_to_place)
    assert "(Input/output error)" in run("convert", source, tmp_path / "w", "--force")[2]
    assert read_weights(tmp_path / "w").architecture.head is None
    assert {p.name for p in tmp_path.iterdir()} == {source.name, "w"}


def test_folders_are_written_by_many_threads(source, tmp_path):
    weights = read_weights(source)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: write_weights(tmp_path / f"w{i}", weights), range(4)))
    assert all(read_weights(tmp_path / f"w{i}").architecture == IMAGENET for i in range(4))
    assert len(list(tmp_path.iterdir())) == 5


def test_any_classifier_can_be_left_out(run, tmp_path):
    model = random_mobilenet(0.25)
    x = keras.layers.GlobalMaxPooling2D()(model.output)
    for units in (30, 20):
        x = keras.layers.BatchNormalization()(keras.layers.Dense(units, activation="tanh")(x))
    keras.Model(model.input, x).save(tmp_path / "k.keras")
    keras.Model(model.input, x).save_weights(tmp_path / "k.weights.h5")
    for name in ("k.keras", "k.weights.h5"):
        status, _, err = run("convert", tmp_path / name, tmp_path / "w.safetensors", "--force")
        assert (status, err.count("\n")) == (1, 1)
        assert run("convert", tmp_path / name, tmp_path / "w.safetensors", "--no-top", "--force")[0] == 0
        found = read_weights(tmp_path / "w.safetensors").tensors["params.conv_pw_13.kernel"]
        np.testing.assert_array_equal(found, model.get_layer("conv_pw_13").kernel)


@pytest.mark.parametrize("there_before", [False, True])
def test_a_write_that_fails_leaves_nothing_half(run, source, tmp_path, monkeypatch, there_before):
    destination = tmp_path / "w.safetensors"
    if there_before:
        destination.write_bytes(b"what was there before")

    def fill_the_disk(path, tensors, metadata):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(save, "write_safetensors", fill_the_disk)
    status, out, err = run("convert", source, destination, "--force")
    assert (status, out) == (1, "")
    assert err == (f"error: cannot write {destination} (No space left on device): make room or choose another folder\n")
    assert {p.name for p in tmp_path.iterdir()} == {source.name} | ({destination.name} if there_before else set())
    assert not there_before or destination.read_bytes() == b"what was there before"


@pytest.mark.parametrize("name", ["w.safetensors", "w.weights.h5", "w"])
def test_a_disk_without_room_is_told_of_first(run, source, tmp_path, monkeypatch, name):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3_000_000))
    status, out, err = run("convert", source, tmp_path / name)
    assert (status, out) == (1, "")
    assert err == f"error: cannot write {tmp_path / name}: the disk has 3.0 MB free, and 4.0 are needed\n"
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


def test_converting_the_widest_takes_seconds_and_no_tensorflow(weights, tmp_path):
    code = "import sys; from mobilenet_jax.cli.main import main; main(); sys.exit('tensorflow' in sys.modules)"
    start = time.perf_counter()
    command = [sys.executable, "-c", code, "convert", weights[1.0], tmp_path / "w.safetensors"]
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0
    assert time.perf_counter() - start < 5


def _pixels(path, size):
    """A JPEG as the network takes it: decoded by Pillow, at a half or less where that is enough, and made smaller."""
    with Image.open(path) as image:
        image.draft("RGB", (size, size))
        smaller = cv2.resize(np.asarray(image), (size, size), interpolation=cv2.INTER_AREA)
    return smaller.astype(np.float32) / 127.5 - 1


def test_predict_prints_keras_five_likeliest_classes(run, tmp_path, real_data):
    reference = random_mobilenet(0.25, "imagenet", (128, 128))
    reference.save(tmp_path / "k.keras")
    assert run("convert", tmp_path / "k.keras", tmp_path / "w.safetensors")[0] == 0
    images = sorted(real_data.glob("*/*.jpg"))[:2]
    status, out, _ = run("predict", tmp_path / "w.safetensors", *images)
    assert status == 0
    lines = iter(out.splitlines())
    for path in images:
        pixels = _pixels(path, 128)
        expected = np.asarray(keras.ops.softmax(reference.predict(pixels[None], verbose=0)[0]))
        assert next(lines) == str(path)
        for rank in np.argsort(-expected)[:5]:
            index, probability = next(lines).split()
            assert int(index) == rank
            assert float(probability) == pytest.approx(expected[rank], abs=1e-4)


@pytest.mark.parametrize("head", ["small", "article", "article_bn"])
def test_predict_names_the_classes_of_a_run(run, tmp_path, head):
    positions = 1 if head == "small" else 2
    source = write_keras_2(tmp_path / "w.h5", Architecture(0.25, head, 3, positions))
    weights = replace(read_weights(source), metadata=Metadata((32, 64), (0, 1), ("MEL", "NV", "DF")))
    write_weights(tmp_path / "w.safetensors", weights)
    Image.new("RGB", (30, 20), "brown").save(tmp_path / "i.png")
    out = run("predict", tmp_path / "w.safetensors", tmp_path / "i.png")[1]
    rows = [line.split() for line in out.splitlines()[1:]]
    assert sorted((int(row[0]), row[2]) for row in rows) == [(0, "MEL"), (1, "NV"), (2, "DF")]
    assert sum(float(row[1]) for row in rows) == pytest.approx(1, abs=1e-3)


def test_predict_names_what_it_cannot_use(run, source, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    status, _, err = run("predict", source, tmp_path / "text.jpg")
    assert status == 1
    assert f"1 of 1 images left out, the last: {tmp_path / 'text.jpg'} cannot be read (it is no JPEG" in err
    bare = write_keras_2(tmp_path / "bare.h5")
    assert "bare.h5 holds no classifier, only features" in run("predict", bare, tmp_path / "text.jpg")[2]


def _state(workdir, step):
    """The state in a checkpoint, as Orbax reads it."""
    return ocp.StandardCheckpointer().restore(workdir / "checkpoints" / str(step) / "state")


def test_a_fine_tuned_run_goes_on_in_keras(run, tmp_path, weights, real_photographs):
    config = get_config("isic2018")
    config.update_from_flattened_dict({
        "data.dir": str(write_isic(tmp_path / "isic")), "data.image_size": 64, "model.alpha": 0.25,
        "init.weights": str(weights[0.25]), "init.input_scaling": "weights", "train.batch_size": 8, "train.epochs": 3,
    })  # fmt: skip
    summary = train_and_evaluate(config, tmp_path / "run")
    status, out, err = run("convert", tmp_path / "run", tmp_path / "best.weights.h5")
    assert (status, err) == (0, "")
    assert f"best checkpoint, step {summary['best']['step']}" in out
    assert "head 'article' for 7 classes; trained on images of 64x64, pixels scaled to [-1, 1]" in out
    assert read_weights(tmp_path / "best.weights.h5").metadata.classes == (
        "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC",
    )  # fmt: skip
    state = _state(tmp_path / "run", summary["best"]["step"])
    assert state["ema"] is None
    expected = {"params": state["params"], "batch_stats": state["batch_stats"]}
    assert jax.tree.all(jax.tree.map(np.array_equal, read_weights(tmp_path / "run").variables, expected))
    latest = run("convert", tmp_path / "run", tmp_path / "latest", "--checkpoint=latest")[1]
    assert f"latest checkpoint, step {summary['last']['step']}" in latest

    keras_model = random_mobilenet(0.25, "article", (64, 64), seed=1)
    keras_model.load_weights(tmp_path / "best.weights.h5")
    keras_model = keras.Sequential([keras_model, keras.layers.Softmax()])
    assert len(real_photographs) == 100
    [batch] = read_images([str(path) for path in real_photographs], (64, 64), 100)
    found = Classifier(read_weights(tmp_path / "run")).probabilities(batch.pixels, 100)
    pixels = np.stack([_pixels(path, 64) for path in real_photographs])
    expected = keras_model.predict(pixels, verbose=0)
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_of_a_run_that_kept_an_average_of_its_parameters_the_average_is_read(run, tmp_path, monkeypatch, capsys):
    """Of the best checkpoint, and of one from within an epoch."""
    config = get_config("isic2018")
    config.update_from_flattened_dict({
        "data.dir": str(write_isic(tmp_path / "isic")), "data.image_size": 32, "model.alpha": 0.25,
        "model.head": "article_bn", "model.frozen_blocks": 13, "init.weights": "",
        "train.batch_size": 8, "train.epochs": 2, "train.ema_decay": 0.9,
    })  # fmt: skip
    monkeypatch.setattr(StopRequest, "asked_at", lambda self, step: step == 5)
    with pytest.raises(Interrupted):
        train_and_evaluate(config, tmp_path / "run")
    capsys.readouterr()

    for which, step in (("best", 3), ("latest", 5)):
        weights = read_weights(tmp_path / "run", checkpoint=which)
        assert weights.identity == f"{which} checkpoint, step {step}"
        assert weights.architecture == Architecture(0.25, "article_bn", 7, 1)
        state = _state(tmp_path / "run", step)
        expected = {"params": state["ema"], "batch_stats": state["batch_stats"]}
        assert jax.tree.all(jax.tree.map(np.array_equal, weights.variables, expected))
        assert not np.array_equal(state["ema"]["dense_2"]["kernel"], state["params"]["dense_2"]["kernel"])
    row = run("convert", tmp_path / "run", tmp_path / "w.safetensors", "--dry-run")[1].splitlines()[1]
    assert row.split()[:2] == ["ema.conv1.kernel", "params.conv1.kernel"]

    assert run("convert", tmp_path / "run", tmp_path / "w.weights.h5", "--checkpoint=latest")[0] == 0
    keras_model = random_mobilenet(0.25, "article_bn", (32, 32), seed=1)
    keras_model.load_weights(tmp_path / "w.weights.h5")
    images = np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)).astype(np.float32)
    found = weights.architecture.build_model().apply(weights.variables, images, train=False)
    assert relative_error(found, keras_model.predict(images, verbose=0)) < 1e-4


def test_the_metadata_is_text_that_any_program_reads(run, source, tmp_path):
    run("convert", source, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["alpha"] == "0.25"
    assert header["__metadata__"]["head"] == "imagenet"
    assert header["__metadata__"]["num_classes"] == "1000"
