import hashlib
from typing import Any

import h5py
import jax
import keras
import numpy as np
import pytest
import safetensors

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.weights.imagenet import find_imagenet_weights
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import load_pretrained, read_weights
from mobilenet_jax.weights.save import save_pretrained, write_weights
from mobilenet_jax.weights.weights_file import Metadata
from tests.helpers.hostile_files import write_keras_2
from tests.helpers.keras_models import head_layers, random_mobilenet, randomize, relative_error

KINDS = ("w.safetensors", "w.weights.h5", "folder")


def _outputs(model, variables, images):
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)


def _images(size, n=2):
    return np.random.default_rng(1).uniform(-1, 1, (n, *size, 3)).astype(np.float32)


def _same(a, b):
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() and a[k].shape == b[k].shape for k in a)


@pytest.mark.parametrize("alpha", [0.25, 1.0])
@pytest.mark.parametrize("size", [(224, 224), (128, 128), (161, 97)])
def test_features_equal_keras_on_real_images(weights, real_images, alpha, size):
    images = np.stack([np.asarray(i.resize(size[::-1]), np.float32) for i in real_images]) / 127.5 - 1
    reference = keras.applications.MobileNet(
        weights=str(weights[alpha]), include_top=False, alpha=alpha, input_shape=(*size, 3)
    )
    expected = reference.predict(images, verbose=0)
    model, variables = load_pretrained(weights[alpha])
    for method in ("shifted", "grouped"):
        features = _outputs(model.clone(depthwise=method), variables, images)
        assert features.shape == expected.shape
        assert relative_error(features, expected) < 1e-4


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_stem_middle_and_last_equal_keras_on_real_images(weights, real_images, alpha):
    depths = ("conv1_relu", "conv_pw_6_relu", "conv_pw_13_relu")
    images = np.stack([np.asarray(i.resize((128, 128)), np.float32) for i in real_images]) / 127.5 - 1
    reference = keras.applications.MobileNet(
        weights=str(weights[alpha]), include_top=False, alpha=alpha, input_shape=(128, 128, 3)
    )
    expected = keras.Model(reference.input, [reference.get_layer(d).output for d in depths]).predict(images, verbose=0)
    model, variables = load_pretrained(weights[alpha])

    @jax.jit
    def at_depths(variables, images):
        return model.apply(
            variables, images, train=False, capture_intermediates=lambda m, _: m.name in depths, mutable="intermediates"
        )[1]["intermediates"]

    found = at_depths(variables, images)
    for depth, value in zip(depths, expected, strict=True):
        assert relative_error(found[depth]["__call__"][0], value) < 1e-4


def _check_against_keras(alpha, head, size, tmp_path):
    reference = random_mobilenet(alpha, head, size)
    reference.save_weights(path := tmp_path / "k.weights.h5")
    model, variables = load_pretrained(path)
    assert (model.alpha, model.head) == (alpha, head)
    expected = reference.predict(_images(size), verbose=0)
    assert expected.std() > 0.05, "dead activations would prove nothing"
    assert relative_error(_outputs(model, variables, _images(size)), expected) < 1e-4


@pytest.mark.parametrize(
    ("alpha", "head", "size"),
    [(0.25, "imagenet", (128, 128)), (0.5, None, (160, 160)), (0.75, "imagenet", (97, 161)), (1.0, None, (97, 161))],
)
def test_outputs_equal_keras_for_random_tensors(alpha, head, size, tmp_path):
    _check_against_keras(alpha, head, size, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(128, 128), (160, 160), (192, 192), (224, 224), (97, 161)])
@pytest.mark.parametrize("head", [None, "imagenet"])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75, 1.0])
def test_outputs_equal_keras_for_random_tensors_at_every_width_and_size(alpha, head, size, tmp_path):
    _check_against_keras(alpha, head, size, tmp_path)


@pytest.mark.parametrize("head", [None, "imagenet", "small", "article", "article_bn"])
def test_every_file_keras_3_writes_holds_the_same_tensors(tmp_path, head):
    reference = random_mobilenet(0.25, head)
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
        assert _same(other.tensors, first.tensors)
        assert other.metadata.image_size == (64, 64)
    expected = reference.predict(_images((64, 64)), verbose=0)
    found = _outputs(first.architecture.build_model(), first.variables, _images((64, 64)))
    assert relative_error(found, expected) < 1e-4


@pytest.mark.filterwarnings("ignore")  # Keras 2 warns of its own format
@pytest.mark.parametrize("head", [None, "imagenet", "article", "article_bn"])
def test_files_of_keras_2_are_read(tmp_path, head):
    tf_keras = pytest.importorskip("tf_keras", reason="needs Keras 2: pip install --no-deps tf-keras")
    reference = random_mobilenet(0.25, head, framework=tf_keras)
    reference.save_weights(tmp_path / "mobilenet_2_5_160_tf.h5")
    reference.compile("adam", "mse")
    reference.save(tmp_path / "whole.h5")
    first, second = (read_weights(tmp_path / name) for name in ("mobilenet_2_5_160_tf.h5", "whole.h5"))
    assert _same(first.tensors, second.tensors)
    assert first.metadata.image_size == (160, 160), "as the file's name says"
    assert second.metadata.image_size == (64, 64), "as its model says"
    expected = reference.predict(_images((64, 64)), verbose=0)
    found = _outputs(first.architecture.build_model(), first.variables, _images((64, 64)))
    assert relative_error(found, expected) < 1e-4


@pytest.mark.parametrize("head", ["small", "article_bn"])
def test_a_backbone_nested_in_another_model_is_found(tmp_path, head):
    backbone = random_mobilenet(0.25)
    layers = [backbone, *head_layers(head)]
    model = keras.Sequential([*layers[:-1], keras.layers.Dropout(0.5), layers[-1]])
    model.build((None, 64, 64, 3))
    randomize(model)
    expected = model.predict(_images((64, 64)), verbose=0)
    for name in ("k.weights.h5", "k.keras", "k.h5"):
        model.save_weights(tmp_path / name) if name == "k.weights.h5" else model.save(tmp_path / name)
        weights = read_weights(tmp_path / name)
        assert weights.architecture == Architecture(0.25, head, 7, 1 if head == "small" else 4)
        found = _outputs(weights.architecture.build_model(), weights.variables, _images((64, 64)))
        assert relative_error(found, expected) < 1e-4
        np.testing.assert_array_equal(weights.tensors["params.predictions.kernel"], layers[-1].kernel)
        np.testing.assert_array_equal(
            weights.tensors["params.conv_pw_13.kernel"], backbone.get_layer("conv_pw_13").kernel
        )


def test_layers_of_a_head_that_keras_numbered_on_are_told_by_their_order(tmp_path):
    path = write_keras_2(tmp_path / "w.h5", Architecture(0.25, "article_bn", 7, 4))
    expected = read_weights(path).tensors
    renamed = {
        "dense_1": "dense_9", "dense_2": "dense_10", "predictions": "dense_11",
        "dense_1_bn": "batch_normalization_9", "dense_2_bn": "batch_normalization_10",
    }  # fmt: skip
    with h5py.File(path, "r+") as file:
        for ours, keras_name in renamed.items():
            file.move(f"{ours}/{ours}", f"{keras_name}/{keras_name}")
            del file[ours]
    assert _same(read_weights(path).tensors, expected)


def test_what_a_model_sows_is_not_saved(tmp_path):
    model = MobileNet(0.25, "article_bn")
    images = np.zeros((1, 32, 32, 3), np.float32)

    def sow() -> dict[str, Any]:
        variables = model.init(jax.random.key(0), images, train=False)
        return variables | model.apply(variables, images, train=False, mutable=["activities"])[1]

    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), jax.eval_shape(sow))
    assert set(variables) == {"params", "batch_stats", "activities"}
    save_pretrained(tmp_path / "w.safetensors", model, variables)
    _, found = load_pretrained(tmp_path / "w.safetensors")
    assert jax.tree.all(
        jax.tree.map(np.array_equal, found, {name: variables[name] for name in ("params", "batch_stats")})
    )


@pytest.mark.parametrize("head", [None, "imagenet", "small", "article", "article_bn"])
def test_round_trips_through_every_format_keep_every_bit(tmp_path, head):
    reference = random_mobilenet(0.25, head)
    reference.save_weights(tmp_path / "k.weights.h5")
    start = read_weights(tmp_path / "k.weights.h5")
    metadata = Metadata((64, 64), (0.0, 1.0), tuple(map(str, range(start.architecture.num_classes))) or None)
    weights, previous = start, None
    for name in (*KINDS, "w2.safetensors", "w2.weights.h5"):
        write_weights(tmp_path / name, weights)
        weights = read_weights(tmp_path / name)
        assert _same(weights.tensors, start.tensors)
        assert weights.architecture == start.architecture
        if previous is None:
            save_pretrained(tmp_path / name, start.architecture.build_model(), start.variables, metadata, force=True)
            weights = read_weights(tmp_path / name)
        previous = weights.metadata
        assert (previous.image_size, previous.input_scaling, previous.classes) == (
            metadata.image_size,
            metadata.input_scaling,
            metadata.classes,
        )
        assert len(previous.source_sha256) == 64
        assert previous.source == name
    randomize(other := random_mobilenet(0.25, head), seed=1)
    other.load_weights(tmp_path / "w2.weights.h5")
    for before, after in zip(reference.get_weights(), other.get_weights(), strict=True):
        assert before.tobytes() == after.tobytes()


def test_a_file_tells_what_its_tensors_do_not(tmp_path, weights):
    write_weights(path := tmp_path / "w.safetensors", read_weights(weights[0.25]))
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata() == {
            "alpha": "0.25",
            "image_size": "[224, 224]",
            "input_scaling": "[-1.0, 1.0]",
            "source": "mobilenet_2_5_224_tf_no_top.h5",
            "source_sha256": hashlib.sha256(weights[0.25].read_bytes()).hexdigest(),
        }


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("head", [None, "imagenet", "small", "article", "article_bn"])
def test_the_table_of_shapes_is_the_models(alpha, head):
    images = np.zeros((1, 64, 96, 3), np.float32)
    model = MobileNet(alpha, head, num_classes=11)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    expected = {
        f"{collection}.{layer}.{tensor}": leaf.shape
        for collection in ("params", "batch_stats")
        for layer, tensors in variables[collection].items()
        for tensor, leaf in tensors.items()
    }
    positions = 6 if head in ("article", "article_bn") else 1
    assert Architecture(alpha, head, 11 if head else 0, positions).shapes() == expected


def test_variables_that_are_not_the_models_are_not_saved(tmp_path, weights):
    model, variables = load_pretrained(weights[0.25])
    with pytest.raises(
        WeightsError, match=r"of the variables are \(0\.25, None, 0\), of the model \(0\.25, 'small', 7\)"
    ):
        save_pretrained(tmp_path / "w.safetensors", MobileNet(0.25, "small"), variables)
    del variables["params"]["conv_dw_3"]
    with pytest.raises(WeightsError, match="tensors missing: params.conv_dw_3.kernel"):
        save_pretrained(tmp_path / "w.safetensors", model, variables)
    assert not list(tmp_path.iterdir())


def test_another_alpha_is_named_as_the_cause(weights):
    with pytest.raises(WeightsError, match=r"holds MobileNet of alpha 0\.25; the model has alpha 1\.0"):
        load_pretrained(weights[0.25], alpha=1.0)


def test_imagenet_file_is_taken_from_the_cache_and_else_says_where_to_put_it(cache, monkeypatch):
    def no_network(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr("pooch.retrieve", no_network)
    folder = cache / "mobilenet-jax" / "weights"
    with pytest.raises(WeightsError) as error:
        find_imagenet_weights(0.75, 160)
    assert "mobilenet_7_5_160_tf_no_top.h5" in str(error.value)
    assert str(folder) in str(error.value)
    (folder / "mobilenet_7_5_224_tf_no_top.h5").touch()
    assert find_imagenet_weights(0.75, 300) == folder / "mobilenet_7_5_224_tf_no_top.h5", "other sizes start from 224"
