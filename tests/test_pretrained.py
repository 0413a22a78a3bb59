import re
import shutil

import h5py
import jax
import keras
import numpy as np
import pytest

from mobilenet_jax.model import MobileNet
from mobilenet_jax.pretrained import WeightsError, imagenet_file, load_pretrained


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
        features = jax.jit(lambda v, x, m=method: model.clone(depthwise=m).apply(v, x, train=False))(variables, images)
        assert features.shape == expected.shape
        assert np.linalg.norm(features - expected) < 1e-4 * np.linalg.norm(expected)


def test_a_fresh_keras_file_is_read_whatever_its_statistics(tmp_path):
    """All tensors random, so that a swapped or forgotten one cannot hide behind ones and zeros."""
    reference = keras.applications.MobileNet(weights=None, include_top=False, alpha=0.5, input_shape=(64, 64, 3))
    rng = np.random.default_rng(0)
    reference.set_weights([rng.uniform(0.5, 1.5, w.shape) * (0.1 if w.ndim == 4 else 1) for w in reference.weights])
    _save_as_keras_2(reference, old := tmp_path / "old.h5")
    images = rng.uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    model, variables = load_pretrained(old)
    assert model.alpha == 0.5
    features = jax.jit(lambda v: model.apply(v, images, train=False))(variables)
    expected = reference.predict(images, verbose=0)
    assert np.linalg.norm(features - expected) < 1e-4 * np.linalg.norm(expected)


def _save_as_keras_2(reference, path):
    """Writes the layout of Keras 2: a group a layer, in it datasets `layer/tensor:0`."""
    with h5py.File(path, "w") as file:
        for layer in reference.layers:
            group = file.create_group(layer.name)
            for weight in layer.weights:
                name = "depthwise_kernel" if "_dw_" in layer.name and len(weight.shape) == 4 else weight.name
                group.create_dataset(f"{layer.name}/{name}:0", data=np.asarray(weight))


@pytest.fixture
def copy(weights, tmp_path):
    """A copy of the alpha 0.25 file to damage."""
    return shutil.copy(weights[0.25], tmp_path / "copy.h5")


def _delete(file):
    del file["conv_pw_3/conv_pw_3/kernel:0"]
    del file["conv_dw_2_bn/conv_dw_2_bn/gamma:0"]


def _reshape(file):
    del file["conv_pw_3/conv_pw_3/kernel:0"]
    file["conv_pw_3/conv_pw_3/kernel:0"] = np.zeros((1, 1, 32, 99), np.float32)


def _swap_layout(file):
    kernel = file["conv_dw_1/conv_dw_1/depthwise_kernel:0"][()]
    del file["conv_dw_1/conv_dw_1/depthwise_kernel:0"]
    file["conv_dw_1/conv_dw_1/depthwise_kernel:0"] = kernel.transpose(0, 1, 3, 2)


def _retype(file):
    del file["conv1/conv1/kernel:0"]
    file["conv1/conv1/kernel:0"] = np.zeros((3, 3, 3, 8), np.float64)


def _add(file):
    file["dense/dense/kernel:0"] = np.zeros((1, 1), np.float32)


def _add_at_root(file):
    file["data"] = np.zeros(3, np.float32)


def _add_twice(file):
    file["conv1/zzz/kernel:0"] = np.zeros((3, 3, 3, 8), np.float32)


def _poison(file):
    file["conv_dw_5_bn/conv_dw_5_bn/moving_variance:0"][3] = np.nan


def _link_outside(file):
    del file["conv1/conv1/kernel:0"]
    file["conv1/conv1/kernel:0"] = h5py.ExternalLink("other.h5", "/secret")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_delete, "missing from the file: conv_dw_2_bn/gamma, conv_pw_3/kernel"),
        (_reshape, "conv_pw_3/kernel is (1, 1, 32, 99), not (1, 1, 32, 32)"),
        (_swap_layout, "conv_dw_1/depthwise_kernel is (3, 3, 1, 8), not (3, 3, 8, 1)"),
        (_retype, "conv1/kernel is float64"),
        (_add, "does not have: dense/kernel"),
        (_add_at_root, "does not have: data"),
        (_add_twice, "holds tensor conv1/kernel twice: /conv1/conv1/kernel:0 and /conv1/zzz/kernel:0"),
        (_poison, "conv_dw_5_bn/moving_variance holds NaN"),
        (_link_outside, "conv1/kernel is missing"),
    ],
)
def test_a_wrong_tensor_is_named(copy, damage, message):
    with h5py.File(copy, "r+") as file:
        damage(file)
    with pytest.raises(WeightsError, match=re.escape(message)) as error:
        load_pretrained(copy)
    assert str(copy) in str(error.value)


def test_another_alpha_is_named_as_the_cause(weights):
    with pytest.raises(WeightsError, match=re.escape("holds MobileNet of alpha 0.25; the model has alpha 1.0")):
        load_pretrained(weights[0.25], alpha=1.0)


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + bytes(50)])
def test_what_is_no_hdf5_is_refused(tmp_path, content):
    (path := tmp_path / "w.h5").write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read as HDF5"):
        load_pretrained(path)


def test_a_missing_file_is_named():
    with pytest.raises(WeightsError, match="no such file of weights: nowhere.h5"):
        load_pretrained("nowhere.h5")


def test_pretrained_backbone_has_the_models_own_names_and_shapes(weights):
    _, variables = load_pretrained(weights[0.25])
    images = np.zeros((1, 32, 32, 3), np.float32)
    model = MobileNet(0.25, "small")
    whole = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    for collection in ("params", "batch_stats"):
        backbone = {layer: t for layer, t in whole[collection].items() if layer != "predictions"}
        assert jax.tree.map(np.shape, variables[collection]) == jax.tree.map(lambda x: x.shape, backbone)


def test_imagenet_file_is_taken_from_the_cache_and_else_says_where_to_put_it(cache, monkeypatch):
    def no_network(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr("pooch.retrieve", no_network)
    folder = cache / "mobilenet-jax" / "weights"
    with pytest.raises(WeightsError, match=r"mobilenet_7_5_160_tf_no_top\.h5.*" + re.escape(str(folder))):
        imagenet_file(0.75, 160)
    (folder / "mobilenet_7_5_224_tf_no_top.h5").touch()
    assert imagenet_file(0.75, 300) == folder / "mobilenet_7_5_224_tf_no_top.h5", "other sizes start from 224"
