"""Training from weights of every kind: on real images, with the layers, padding, epsilon and range that they need."""

import dataclasses

import numpy as np
import pytest

from mobilenet_jax.errors import ConfigError
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.metadata import make_input_scaling
from mobilenet_jax.weights.save import write_weights
from tests.helpers.runs import make_config
from tests.helpers.weights_files import write_checkpoint, write_library_file

KINDS = ("keras", "own", "orbax", "timm", "transformers", "tensorflow")
FROZEN = 3  # blocks
SCALING = make_input_scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _prepare(kind, weights, folder):
    """Returns initial weights of a kind, and the values of the configuration that they need."""
    if kind == "keras":
        return weights[0.25], {}
    if kind == "timm":  # it has no narrow MobileNet
        source = read_weights(weights[1.0])
        metadata = dataclasses.replace(source.metadata, input_scaling=SCALING)
        write_weights(folder / "w", dataclasses.replace(source, metadata=metadata), library="timm")
        return folder / "w", {"model__alpha": 1.0, "model__padding": "same"}
    if kind == "tensorflow":
        tensors = read_weights(weights[0.25]).tensors
        return write_checkpoint(folder / "w.ckpt", tensors=tensors), {"model__padding": "same"}
    path = folder / ("w.safetensors" if kind == "own" else "w")
    source = read_weights(weights[0.25])
    if kind == "transformers":
        head = {"params.predictions.kernel": np.ones((256, 7), np.float32), "params.predictions.bias": np.zeros(7, "f")}
        architecture = source.architecture._replace(head="small", num_classes=7)
        write_weights(
            path, dataclasses.replace(source, architecture=architecture, tensors=source.tensors | head), library=kind
        )
        return path, {"model__padding": "same"}
    write_weights(path, source)
    return path, {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_from_weights_of_every_kind_trains_all_layers_that_are_not_frozen(tmp_path, weights, real_data, kind):
    path, values = _prepare(kind, weights, tmp_path)
    config = make_config(
        real_data, init__weights=str(path), init__input_scaling="weights", train__epochs=1, data__image_size=64,
        model__frozen_blocks=FROZEN, **values,
    )  # fmt: skip
    summary = train_and_evaluate(config, tmp_path / "run")
    assert np.isfinite(summary["last"]["train_loss"])
    before, after = read_weights(path, head=False), read_weights(tmp_path / "run")
    assert after.architecture[4:] == before.architecture[4:]
    np.testing.assert_allclose(after.metadata.input_scaling, SCALING if kind == "timm" else (-1, 1), rtol=1e-12)
    frozen = {"conv1", *(f"conv_{conv}_{i}" for i in range(1, FROZEN + 1) for conv in ("dw", "pw"))}
    for name, value in before.tensors.items():
        is_frozen = name.split(".")[1].removesuffix("_bn") in frozen
        assert np.array_equal(after.tensors[name], value) == is_frozen, name


def test_the_options_that_other_weights_need_are_named(tmp_path, real_data):
    architecture = Architecture(0.25, None, 0, 1, conv_head=True)
    write_library_file(tmp_path / "w.safetensors", "timm", architecture)
    config = make_config(real_data, init__weights=str(tmp_path / "w.safetensors"))
    needed = r"add --config\.model\.conv_head=True --config\.model\.batch_norm_epsilon=1e-05 --config\.model\.padding="
    with pytest.raises(ConfigError, match=needed):
        train_and_evaluate(config, tmp_path / "run")
