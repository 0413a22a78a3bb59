"""Weights that are read: outputs equal to Keras's for files of every version of Keras."""

import shutil
from pathlib import Path

import h5py
import jax
import keras
import numpy as np
import pytest

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import load_pretrained, read_weights
from tests.helpers.heads import HEADS
from tests.helpers.keras_models import compute_relative_error, make_head_layers, make_random_mobilenet, randomize
from tests.helpers.weights_files import (
    BACKBONE,
    are_equal,
    make_random_tensors,
    write_archive,
    write_keras_2,
    write_keras_3,
    write_safetensors,
)


def _apply(model, variables, images):
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)


def _make_images(size, n=2):
    return np.random.default_rng(1).uniform(-1, 1, (n, *size, 3)).astype(np.float32)


def test_intact_files_are_read(tmp_path):
    expected = make_random_tensors()
    write_safetensors(tmp_path / "w.safetensors")
    write_archive(tmp_path / "w.keras", write_keras_3(tmp_path / "w.weights.h5"))
    for path in (
        write_keras_2(tmp_path / "w.h5"),
        *(tmp_path / f"w{s}" for s in (".weights.h5", ".keras", ".safetensors")),
    ):
        tensors = read_weights(path).tensors
        assert tensors.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(tensors[name], value)


@pytest.mark.parametrize("name", ["w.weights.h5", "w.safetensors", "w.keras", "w"])
def test_the_format_is_detected_from_the_content(tmp_path, name):
    shutil.copy(write_keras_2(tmp_path / "w.h5"), tmp_path / name)
    assert read_weights(tmp_path / name).architecture == BACKBONE


def test_a_missing_file_is_named():
    with pytest.raises(WeightsError, match="nowhere.h5: no such file or folder"):
        read_weights("nowhere.h5")


def test_a_url_is_not_downloaded():
    with pytest.raises(WeightsError, match=r"supported: download the file first"):
        read_weights(Path("https://example.org/mobilenet.h5"))


@pytest.mark.parametrize(
    ("alpha", "size"),
    [
        (0.25, (161, 97)),
        (1.0, (128, 128)),
        *(pytest.param(0.25, size, marks=pytest.mark.slow) for size in ((224, 224), (128, 128))),
        *(pytest.param(1.0, size, marks=pytest.mark.slow) for size in ((224, 224), (161, 97))),
    ],
)
def test_features_equal_keras_on_real_images(weights, real_images, alpha, size):
    images = np.stack([np.asarray(i.resize(size[::-1]), np.float32) for i in real_images]) / 127.5 - 1
    reference = keras.applications.MobileNet(
        weights=str(weights[alpha]), include_top=False, alpha=alpha, input_shape=(*size, 3)
    )
    expected = reference.predict(images, verbose=0)
    model, variables = load_pretrained(weights[alpha])
    for plain in (False, True):
        features = _apply(model.clone(plain_convolutions=plain), variables, images)
        assert features.shape == expected.shape
        assert compute_relative_error(features, expected) < 1e-4


@pytest.mark.parametrize("alpha", [0.25, pytest.param(1.0, marks=pytest.mark.slow)])
def test_stem_middle_and_last_features_equal_keras_on_real_images(weights, real_images, alpha):
    depths = ("conv1_relu", "conv_pw_6_relu", "conv_pw_13_relu")
    images = np.stack([np.asarray(i.resize((128, 128)), np.float32) for i in real_images]) / 127.5 - 1
    reference = keras.applications.MobileNet(
        weights=str(weights[alpha]), include_top=False, alpha=alpha, input_shape=(128, 128, 3)
    )
    expected = keras.Model(reference.input, [reference.get_layer(d).output for d in depths]).predict(images, verbose=0)
    model, variables = load_pretrained(weights[alpha])

    @jax.jit
    def apply_with_intermediates(variables, images):
        return model.apply(
            variables, images, train=False, capture_intermediates=lambda m, _: m.name in depths, mutable="intermediates"
        )[1]["intermediates"]

    features = apply_with_intermediates(variables, images)
    for depth, value in zip(depths, expected, strict=True):
        assert compute_relative_error(features[depth]["__call__"][0], value) < 1e-4


def _check_against_keras(alpha, head, size, tmp_path):
    reference = make_random_mobilenet(alpha, head, size)
    reference.save_weights(path := tmp_path / "k.weights.h5")
    model, variables = load_pretrained(path)
    assert (model.alpha, model.head) == (alpha, head)
    expected = reference.predict(_make_images(size), verbose=0)
    assert expected.std() > 0.05, "dead activations would prove nothing"
    assert compute_relative_error(_apply(model, variables, _make_images(size)), expected) < 1e-4


@pytest.mark.parametrize(("alpha", "head", "size"), [(0.5, None, (128, 128)), (0.75, "imagenet", (97, 161))])
def test_outputs_equal_keras_for_random_tensors(alpha, head, size, tmp_path):
    _check_against_keras(alpha, head, size, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(128, 128), (160, 160), (192, 192), (224, 224), (97, 161)])
@pytest.mark.parametrize("head", [None, "imagenet"])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75, 1.0])
def test_outputs_equal_keras_for_random_tensors_at_every_width_and_size(alpha, head, size, tmp_path):
    _check_against_keras(alpha, head, size, tmp_path)


@pytest.mark.parametrize("head", HEADS)
def test_every_file_keras_3_writes_holds_the_same_tensors(tmp_path, head):
    reference = make_random_mobilenet(0.25, head)
    reference.compile("adam", "mse")
    reference.optimizer.build(reference.trainable_variables)
    names = ("k.weights.h5", "k.keras", "k.h5")
    reference.save_weights(tmp_path / names[0])
    for name in names[1:]:
        reference.save(tmp_path / name)
    first, *others = [read_weights(tmp_path / name) for name in names]
    assert first.architecture == Architecture(
        0.25, head, reference.output_shape[-1] if head else 0, 4 if head in ("article", "article_bn") else 1
    )
    for other in others:
        assert are_equal(other.tensors, first.tensors)
        assert other.metadata.image_size == (64, 64)
    expected = reference.predict(_make_images((64, 64)), verbose=0)
    outputs = _apply(first.architecture.build_model(), first.variables, _make_images((64, 64)))
    assert compute_relative_error(outputs, expected) < 1e-4


@pytest.mark.filterwarnings("ignore")  # Keras 2 warns about its own format
@pytest.mark.parametrize("head", [None, "imagenet", "article", "article_bn"])
def test_files_of_keras_2_are_read(tmp_path, head):
    tf_keras = pytest.importorskip("tf_keras", reason="needs Keras 2: pip install --no-deps tf-keras")
    reference = make_random_mobilenet(0.25, head, framework=tf_keras)
    reference.save_weights(tmp_path / "mobilenet_2_5_160_tf.h5")
    reference.compile("adam", "mse")
    reference.save(tmp_path / "whole.h5")
    first, second = (read_weights(tmp_path / name) for name in ("mobilenet_2_5_160_tf.h5", "whole.h5"))
    assert are_equal(first.tensors, second.tensors)
    assert first.metadata.image_size == (160, 160), "from the name of the file"
    assert second.metadata.image_size == (64, 64), "from the description of the model"
    expected = reference.predict(_make_images((64, 64)), verbose=0)
    outputs = _apply(first.architecture.build_model(), first.variables, _make_images((64, 64)))
    assert compute_relative_error(outputs, expected) < 1e-4


@pytest.mark.parametrize("head", [pytest.param("small", marks=pytest.mark.slow), "article_bn"])
def test_a_backbone_nested_in_another_model_is_found(tmp_path, head):
    backbone = make_random_mobilenet(0.25)
    layers = [backbone, *make_head_layers(head)]
    model = keras.Sequential([*layers[:-1], keras.layers.Dropout(0.5), layers[-1]])
    model.build((None, 64, 64, 3))
    randomize(model)
    expected = model.predict(_make_images((64, 64)), verbose=0)
    for name in ("k.weights.h5", "k.keras", "k.h5"):
        model.save_weights(tmp_path / name) if name == "k.weights.h5" else model.save(tmp_path / name)
        weights = read_weights(tmp_path / name)
        assert weights.architecture == Architecture(0.25, head, 7, 1 if head == "small" else 4)
        outputs = _apply(weights.architecture.build_model(), weights.variables, _make_images((64, 64)))
        assert compute_relative_error(outputs, expected) < 1e-4
        np.testing.assert_array_equal(weights.tensors["params.predictions.kernel"], layers[-1].kernel)
        np.testing.assert_array_equal(
            weights.tensors["params.conv_pw_13.kernel"], backbone.get_layer("conv_pw_13").kernel
        )


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("names", "is_order_recorded"),
    [
        (("dense_9", "dense_10", "dense_11", "batch_normalization_9", "batch_normalization_10"), False),
        (("hidden", "bottleneck", "output", "second", "first"), True),
        (("dense", "dense_1", "predictions", "batch_normalization", "batch_normalization_1"), True),
    ],
)
def test_head_layers_with_any_name_are_identified_by_their_order(tmp_path, nested, names, is_order_recorded):
    path = write_keras_2(tmp_path / "w.h5", Architecture(0.25, "article_bn", 7, 4))
    expected = read_weights(path).tensors
    _rename_head(path, names, nested=nested, is_order_recorded=is_order_recorded)
    assert are_equal(read_weights(path).tensors, expected)


def test_head_layers_whose_order_is_not_recorded_are_refused(tmp_path):
    path = write_keras_2(tmp_path / "w.h5", Architecture(0.25, "article_bn", 7, 4))
    _rename_head(path, ("hidden", "bottleneck", "output", "second", "first"), nested=False, is_order_recorded=False)
    with pytest.raises(WeightsError, match="tensors that MobileNet does not have: batch_stats.first.mean"):
        read_weights(path)


def _rename_head(path, names, *, nested, is_order_recorded):
    """Renames the layers of a head, in a model of their own if `nested`, and records their order as Keras does."""
    layers = ("dense_1", "dense_2", "predictions", "dense_1_bn", "dense_2_bn")
    with h5py.File(path, "r+") as file:
        for layer in layers:
            file.move(layer, f"old/{layer}")
        for layer, name in zip(layers, names, strict=True):
            file.move(f"old/{layer}/{layer}", f"head/{name}" if nested else f"{name}/{name}")
        if is_order_recorded:
            file.attrs["layer_names"] = ["head"] if nested else names
            for group, members in [("head", names)] if nested else [(name, [name]) for name in names]:
                tensors = [f"{member}/{tensor}" for member in members for tensor in file[f"{group}/{member}"]]
                file[group].attrs["weight_names"] = tensors
