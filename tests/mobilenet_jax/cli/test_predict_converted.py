"""The `predict` command on weights files that `convert` reads and writes."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from PIL import Image

from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.save import write_weights
from tests.helpers.keras_models import make_random_mobilenet, read_pixels
from tests.helpers.weights_files import write_keras_2


def test_predict_prints_the_five_most_probable_classes_of_keras(run, tmp_path, real_data):
    reference = make_random_mobilenet(0.25, "imagenet", (128, 128))
    reference.save(tmp_path / "k.keras")
    assert run("convert", tmp_path / "k.keras", tmp_path / "w.safetensors")[0] == 0
    images = sorted(real_data.glob("*/*.jpg"))[:2]
    status, out, _ = run("predict", tmp_path / "w.safetensors", *images)
    assert status == 0
    lines = iter(out.splitlines())
    for path in images:
        pixels = read_pixels(path, 128)
        expected = np.asarray(keras.ops.softmax(reference.predict(pixels[None], verbose=0)[0]))
        assert next(lines) == str(path)
        for rank in np.argsort(-expected)[:5]:
            index, probability = next(lines).split()
            assert int(index) == rank
            assert float(probability) == pytest.approx(expected[rank], abs=1e-4)


@pytest.mark.parametrize("head", ["small", "article", "article_bn"])
def test_predict_prints_the_class_names_of_the_metadata(run, tmp_path, head):
    positions = 1 if head == "small" else 2
    source = write_keras_2(tmp_path / "w.h5", Architecture(0.25, head, 3, positions))
    weights = replace(read_weights(source), metadata=Metadata((32, 64), (0, 1), ("MEL", "NV", "DF")))
    write_weights(tmp_path / "w.safetensors", weights)
    Image.new("RGB", (30, 20), "brown").save(tmp_path / "i.png")
    out = run("predict", tmp_path / "w.safetensors", tmp_path / "i.png")[1]
    rows = [line.split() for line in out.splitlines()[1:]]
    assert sorted((int(row[0]), row[2]) for row in rows) == [(0, "MEL"), (1, "NV"), (2, "DF")]
    assert sum(float(row[1]) for row in rows) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("model", ["hf://owner/name", "w.h5"])
def test_a_correction_requires_a_workdir(run, model):
    status, _, err = run("predict", model, "i.png", "--correct=prior")
    assert (status, err) == (1, f"error: --correct requires the workdir of a run: {model} is not one\n")


def test_files_that_predict_cannot_use_are_named(run, tmp_path):
    source = write_keras_2(tmp_path / "w.h5", Architecture(0.25, "imagenet", 1000, 1))
    (tmp_path / "text.jpg").write_text("no image")
    status, _, err = run("predict", source, tmp_path / "text.jpg")
    assert status == 1
    assert (
        f"1 of 1 images skipped, the last: {tmp_path / 'text.jpg'} cannot be read (it is not an image in one of" in err
    )
    bare = write_keras_2(tmp_path / "bare.h5")
    assert "bare.h5 holds no classifier, only features" in run("predict", bare, tmp_path / "text.jpg")[2]
