"""The `convert` command on files of Keras and of this project."""

import errno
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest

from mobilenet_jax.weights import save
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.save import write_weights
from tests.helpers.keras_models import make_random_mobilenet
from tests.helpers.runs import ROOT
from tests.helpers.weights_files import write_keras_2

IMAGENET = Architecture(0.25, "imagenet", 1000, 1)


@pytest.fixture
def source(tmp_path):
    return write_keras_2(tmp_path / "mobilenet_2_5_128_tf.h5", IMAGENET)


@pytest.mark.parametrize("name", ["w.safetensors", "w.weights.h5", "w"])
def test_convert_prints_a_summary_of_the_weights(run, source, tmp_path, name):
    status, out, err = run("convert", source, tmp_path / name)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"{source} (Keras HDF5) -> {tmp_path / name}",
        "MobileNet alpha 0.25, 475,544 values in 137 tensors, head 'imagenet' with 1000 classes; "
        "image size 128x128, input scaling [-1, 1]",
    ]
    assert read_weights(tmp_path / name).architecture == IMAGENET
    assert {p.name for p in tmp_path.iterdir()} == {source.name, name}


def test_a_dry_run_prints_the_mapping_of_each_tensor_and_writes_nothing(run, source, tmp_path):
    (tmp_path / "w.safetensors").write_text("earlier weights")
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
    assert {p.name for p in tmp_path.iterdir()} == {source.name, "w.safetensors"}
    assert (tmp_path / "w.safetensors").read_text() == "earlier weights"
    assert "the name determines the format" in run("convert", source, tmp_path / "w.npz", "--dry-run")[2]


def test_a_dry_run_prints_the_shape_of_the_linear_layer_of_libraries(run, source, tmp_path):
    out = run("convert", source, tmp_path / "folder", "--to=transformers", "--dry-run")[1]
    [row] = [line.split("  ") for line in out.splitlines() if "classifier.weight" in line]
    assert [cell.strip() for cell in row if cell][1:3] == ["classifier.weight", "(1000, 256)"]


def test_a_dry_run_maps_the_batch_normalization_of_the_articles_head(run, tmp_path):
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
        "head 'article_bn' with 7 classes; image size unknown, input scaling [-1, 1]\n"
    )


def test_the_classifier_is_left_out_and_the_input_scaling_recorded(run, source, tmp_path):
    run("convert", source, tmp_path / "w.safetensors", "--no-top", "--input-scaling", 0, 1)
    weights = read_weights(tmp_path / "w.safetensors")
    assert weights.architecture == Architecture(0.25, None, 0, 1)
    assert weights.metadata.input_scaling == (0, 1)
    assert "is not a low number and a higher one" in run("convert", source, tmp_path / "x", "--input-scaling", 1, 1)[2]


def test_nan_is_refused_unless_allowed(run, tmp_path):
    with h5py.File(write_keras_2(tmp_path / "nan.h5"), "r+") as file:
        file["conv_pw_3/conv_pw_3/kernel:0"][0, 0, 0, 0] = np.nan
    status, out, err = run("convert", tmp_path / "nan.h5", tmp_path / "w.safetensors")
    assert (status, out) == (1, "")
    assert err.endswith(
        "tensor conv_pw_3/conv_pw_3/kernel:0 contains NaN or infinity "
        "(mobilenet-jax convert --allow-nonfinite accepts them)\n"
    )
    assert run("convert", tmp_path / "nan.h5", tmp_path / "w.safetensors", "--allow-nonfinite")[0] == 0
    assert np.isnan(
        read_weights(tmp_path / "w.safetensors", allow_nonfinite=True).tensors["params.conv_pw_3.kernel"]
    ).any()


@pytest.mark.parametrize("name", ["w.safetensors", "w.weights.h5", "w"])
def test_existing_weights_are_overwritten_only_with_force(run, source, tmp_path, name):
    run("convert", source, tmp_path / name, "--no-top")
    status, _, err = run("convert", source, tmp_path / name)
    assert status == 1
    hint = "choose another name, or overwrite it with --force (in Python, force=True)"
    assert err == f"error: {tmp_path / name} exists: {hint}\n"
    assert read_weights(tmp_path / name).architecture.head is None
    assert run("convert", source, tmp_path / name, "--force")[0] == 0
    assert read_weights(tmp_path / name).architecture == IMAGENET


def test_force_does_not_overwrite_folders_without_weights(run, source, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").touch()
    (tmp_path / "thesis.safetensors").mkdir()
    for name in ("thesis", "thesis.safetensors"):
        _, _, err = run("convert", source, tmp_path / name, "--force")
        assert "exists and does not hold weights: choose another name" in err
    assert (tmp_path / "thesis" / "chapter1").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w.h5", "the name determines the format: NAME.safetensors, NAME.weights.h5 (Keras 3), or"),
        ("w.onnx", "the name determines the format"),
        ("nowhere/w.safetensors", "no such folder: "),
    ],
)
def test_an_impossible_destination_is_refused(run, source, tmp_path, name, message):
    status, out, err = run("convert", source, tmp_path / name)
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_folder_that_cannot_be_replaced_is_kept(run, source, tmp_path, monkeypatch):
    run("convert", source, tmp_path / "w", "--no-top")
    replace = os.replace

    def fail_to_place(a, b):
        if Path(b) == tmp_path / "w" and read_weights(a).architecture.head == "imagenet":
            raise OSError(errno.EIO, "Input/output error")
        replace(a, b)

    monkeypatch.setattr("os.replace", fail_to_place)
    assert "(Input/output error)" in run("convert", source, tmp_path / "w", "--force")[2]
    assert read_weights(tmp_path / "w").architecture.head is None
    assert {p.name for p in tmp_path.iterdir()} == {source.name, "w"}


def test_threads_can_write_folders_at_the_same_time(source, tmp_path):
    weights = read_weights(source)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: write_weights(tmp_path / f"w{i}", weights), range(4)))
    assert all(read_weights(tmp_path / f"w{i}").architecture == IMAGENET for i in range(4))
    assert len(list(tmp_path.iterdir())) == 5


def test_any_classifier_can_be_left_out(run, tmp_path):
    model = make_random_mobilenet(0.25)
    x = keras.layers.GlobalMaxPooling2D()(model.output)
    for units in (30, 20):
        x = keras.layers.BatchNormalization()(keras.layers.Dense(units, activation="tanh")(x))
    keras.Model(model.input, x).save(tmp_path / "k.keras")
    keras.Model(model.input, x).save_weights(tmp_path / "k.weights.h5")
    for name in ("k.keras", "k.weights.h5"):
        status, _, err = run("convert", tmp_path / name, tmp_path / "w.safetensors", "--force")
        assert (status, err.count("\n")) == (1, 1)
        assert run("convert", tmp_path / name, tmp_path / "w.safetensors", "--no-top", "--force")[0] == 0
        kernel = read_weights(tmp_path / "w.safetensors").tensors["params.conv_pw_13.kernel"]
        np.testing.assert_array_equal(kernel, model.get_layer("conv_pw_13").kernel)


@pytest.mark.parametrize("exists_before", [False, True])
def test_a_failing_write_leaves_no_partial_file(run, source, tmp_path, monkeypatch, exists_before):
    destination = tmp_path / "w.safetensors"
    if exists_before:
        destination.write_bytes(b"previous content")

    def fill_the_disk(path, tensors, texts):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(save._WRITERS, "safetensors", fill_the_disk)
    status, out, err = run("convert", source, destination, "--force")
    assert (status, out) == (1, "")
    reason = "No space left on device"
    assert err == f"error: cannot write {destination} ({reason}): free some space or choose another folder\n"
    assert {p.name for p in tmp_path.iterdir()} == {source.name} | ({destination.name} if exists_before else set())
    assert not exists_before or destination.read_bytes() == b"previous content"


@pytest.mark.parametrize("name", ["w.safetensors", "w.weights.h5", "w"])
def test_a_full_disk_is_reported_before_anything_is_written(run, source, tmp_path, monkeypatch, name):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3_000_000))
    status, out, err = run("convert", source, tmp_path / name)
    assert (status, out) == (1, "")
    assert err == f"error: cannot write {tmp_path / name}: 4.0 MB are needed, but the disk has only 3.0 MB free\n"
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


def test_converting_needs_no_tensorflow(weights, tmp_path):
    code = "import sys; from mobilenet_jax.cli.main import main; main(); sys.exit('tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code, "convert", weights[1.0], tmp_path / "w.safetensors"]
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


def test_the_metadata_are_text_that_any_program_can_read(run, source, tmp_path):
    run("convert", source, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["alpha"] == "0.25"
    assert header["__metadata__"]["head"] == "imagenet"
    assert header["__metadata__"]["num_classes"] == "1000"
