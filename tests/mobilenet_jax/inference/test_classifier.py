import dataclasses
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.sources.isic import CLASS_NAMES as NAMES
from input_pipeline.sources.isic import INPUT
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.inference.classifier import Classifier
from mobilenet_jax.inference.views import apply_view
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.metadata import Metadata, distinguish_names
from mobilenet_jax.weights.weights import Weights
from tests.helpers.runs import read_table, with_devices
from tests.helpers.weights_files import make_random_tensors


def sample_pixels(n):
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), np.uint8)


def test_probabilities_do_not_depend_on_the_batch(trained):
    classifier = Classifier(read_weights(trained))
    pixels = sample_pixels(10)
    expected = classifier.compute_probabilities(pixels, 10)
    np.testing.assert_allclose(expected.sum(1), 1, rtol=1e-12)
    for size in (1, 3, 64):
        parts = [classifier.compute_probabilities(pixels[i : i + size], size) for i in range(0, 10, size)]
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-4)
    np.testing.assert_allclose(classifier.compute_probabilities(pixels[::-1], 10), expected[::-1], rtol=1e-4)


def test_probabilities_are_corrected(trained):
    weights, pixels = read_weights(trained), sample_pixels(3)
    plain, corrected = (
        Classifier(weights, correct=correct).compute_probabilities(pixels, 3)
        for correct in (None, lambda probabilities: probabilities[:, ::-1])
    )
    np.testing.assert_array_equal(corrected, plain[:, ::-1])


def test_probabilities_are_averaged_over_views(trained):
    weights = read_weights(trained)
    pixels = sample_pixels(2)
    single = Classifier(weights)
    views = [np.asarray(apply_view(jnp.asarray(pixels), i)) for i in range(8)]
    for n in (2, 8):
        expected = np.mean([single.compute_probabilities(view, 2) for view in views[:n]], axis=0)
        np.testing.assert_allclose(Classifier(weights, n).compute_probabilities(pixels, 2), expected, rtol=1e-4)


def test_pixels_are_scaled_to_the_input_range_of_the_weights(trained):
    weights = read_weights(trained)
    metadata = dataclasses.replace(weights.metadata, input_scaling=(-1.0, 3.0))
    classifier = Classifier(dataclasses.replace(weights, metadata=metadata))
    scaled = classifier.scale_pixels(jnp.array([0, 51, 255], jnp.uint8))
    np.testing.assert_allclose(scaled, [-1, -0.2, 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "image_size", "views", "message"),
    [
        (Architecture(0.25, None, 0, 1), None, 1, "holds no classifier, only features"),
        (Architecture(0.25, "small", 7, 1), (32, 64), 5, "images of 32 x 64 have 1 to 4 views, not 5"),
        (Architecture(0.25, "small", 7, 1), None, 9, "images of 224 x 224 have 1 to 8 views, not 9"),
        (Architecture(0.25, "article", 7, 2), None, 1, "2 positions, which do not form a square, and no image size"),
        (Architecture(0.25, "article", 7, 2), (64, 64), 1, "2 positions, not for the recorded image size, 64 x 64"),
        (
            Architecture(0.25, "article", 7, 1),
            None,
            1,
            "no image size is recorded, and its first dense layer fits pooled",
        ),
        (Architecture(0.25, "small", 1, 1), None, 1, "has one output: probabilities of classes require two or more"),
    ],
)
def test_weights_that_cannot_classify_are_refused(architecture, image_size, views, message):
    metadata = Metadata(image_size, (0.0, 1.0), None)
    with pytest.raises(WeightsError, match=message):
        Classifier(Weights("test", "", architecture, {}, metadata), views)


def test_the_image_size_of_a_fixed_head_is_inferred_from_its_positions():
    architecture = Architecture(0.25, "article", 7, 4)
    weights = Weights("test", "", architecture, make_random_tensors(architecture), Metadata(None, (0.0, 1.0), None))
    classifier = Classifier(weights)
    assert classifier.image_size == (64, 64)
    assert classifier.class_names == ("0", "1", "2", "3", "4", "5", "6")


def test_the_recorded_image_size_may_be_requested_again():
    architecture = Architecture(0.25, "article", 7, 4)
    weights = Weights("test", "", architecture, make_random_tensors(architecture), Metadata((64, 64)))
    assert weights.with_image_size(64) is weights
    with pytest.raises(WeightsError, match="fits images of one size only"):
        weights.with_image_size(96)


def test_class_names_that_repeat_get_their_index():
    architecture = Architecture(0.25, "small", 3, 1)
    metadata = Metadata((32, 32), classes=("crane", "cat", "crane"))
    classifier = Classifier(Weights("test", "", architecture, make_random_tensors(architecture), metadata))
    assert classifier.class_names == ("crane (0)", "cat", "crane (2)")
    assert len(set(distinguish_names(("a", "a", "a (0)", "a (0) (0)")))) == 4


def test_weights_whose_probabilities_are_nan_are_refused():
    architecture = Architecture(0.25, "small", 7, 1)
    tensors = make_random_tensors(architecture)
    tensors["params.predictions.kernel"] = np.full_like(tensors["params.predictions.kernel"], 3e38)
    classifier = Classifier(Weights("test", "", architecture, tensors, Metadata((32, 32), source="huge.safetensors")))
    with pytest.raises(WeightsError, match=r"huge.safetensors computes probabilities that are NaN"):
        classifier.compute_probabilities(np.full((1, 32, 32, 3), 200, np.uint8), 1)


@pytest.mark.slow
def test_four_devices_compute_the_probabilities_of_one(trained, data, tmp_path):
    for devices in (1, 4):
        command = [Path(sys.executable).with_name("mobilenet-jax"), "predict", trained, data / INPUT.format("Training")]
        options = ["--batch-size=10", f"--out={tmp_path / str(devices)}"]
        subprocess.run([*command, *options], check=True, env=with_devices(devices))
    for row, other in zip(read_table(tmp_path / "1"), read_table(tmp_path / "4"), strict=True):
        assert row["image"] == other["image"]
        assert [float(row[n]) for n in NAMES] == pytest.approx([float(other[n]) for n in NAMES], rel=1e-4)
