"""The `convert` command on the workdirs of training runs: the tensors, and the outputs of Keras with them."""

import jax
import keras
import numpy as np
import orbax.checkpoint as ocp
import pytest

from configs.mobilenet import get_config
from input_pipeline.image_reader import read_images
from mobilenet_jax.errors import Interrupted
from mobilenet_jax.inference.classifier import Classifier
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from tests.helpers.datasets import write_isic
from tests.helpers.keras_models import compute_relative_error, make_random_mobilenet, read_pixels
from tests.helpers.runs import request_stop


def _restore_state(workdir, step):
    """Returns the state in a checkpoint, as Orbax restores it."""
    return ocp.StandardCheckpointer().restore(workdir / "checkpoints" / str(step) / "state")


def test_a_fine_tuned_run_computes_the_same_in_keras(run, tmp_path, weights, real_photographs):
    config = get_config("isic2018")
    config.update_from_flattened_dict({
        "data.dir": str(write_isic(tmp_path / "isic")), "data.image_size": 64, "model.alpha": 0.25,
        "init.weights": str(weights[0.25]), "init.input_scaling": "weights", "train.batch_size": 8, "train.epochs": 3,
    })  # fmt: skip
    summary = train_and_evaluate(config, tmp_path / "run")
    status, out, err = run("convert", tmp_path / "run", tmp_path / "best.weights.h5")
    assert (status, err) == (0, "")
    assert f"best checkpoint, step {summary['best']['step']}" in out
    assert "head 'article' with 7 classes; image size 64x64, input scaling [-1, 1]" in out
    assert read_weights(tmp_path / "best.weights.h5").metadata.classes == (
        "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC",
    )  # fmt: skip
    state = _restore_state(tmp_path / "run", summary["best"]["step"])
    assert state["ema"] is None
    expected = {"params": state["params"], "batch_stats": state["batch_stats"]}
    assert jax.tree.all(jax.tree.map(np.array_equal, read_weights(tmp_path / "run").variables, expected))
    latest = run("convert", tmp_path / "run", tmp_path / "latest", "--checkpoint=latest")[1]
    assert f"latest checkpoint, step {summary['last']['step']}" in latest

    keras_model = make_random_mobilenet(0.25, "article", (64, 64), seed=1)
    keras_model.load_weights(tmp_path / "best.weights.h5")
    keras_model = keras.Sequential([keras_model, keras.layers.Softmax()])
    assert len(real_photographs) == 100
    [batch] = read_images([str(path) for path in real_photographs], (64, 64), 100)
    probabilities = Classifier(read_weights(tmp_path / "run")).compute_probabilities(batch.pixels, 100)
    pixels = np.stack([read_pixels(path, 64) for path in real_photographs])
    expected = keras_model.predict(pixels, verbose=0)
    assert expected.std() > 0.01
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_averaged_parameters_are_read_if_a_run_kept_them(run, tmp_path, monkeypatch, capsys):
    """Both from the best checkpoint, and from one within an epoch."""
    config = get_config("isic2018")
    config.update_from_flattened_dict({
        "data.dir": str(write_isic(tmp_path / "isic")), "data.image_size": 32, "model.alpha": 0.25,
        "model.head": "article_bn", "model.frozen_blocks": 13, "init.weights": "",
        "train.batch_size": 8, "train.epochs": 2, "train.ema_decay": 0.9,
    })  # fmt: skip
    request_stop(monkeypatch, 7)  # step 5: an evaluation counts as two
    with pytest.raises(Interrupted):
        train_and_evaluate(config, tmp_path / "run")
    capsys.readouterr()

    for name, step in (("best", 3), ("latest", 5)):
        weights = read_weights(tmp_path / "run", checkpoint=name)
        assert weights.identity == f"{name} checkpoint, step {step}"
        assert weights.architecture == Architecture(0.25, "article_bn", 7, 1)
        state = _restore_state(tmp_path / "run", step)
        expected = {"params": state["ema"], "batch_stats": state["batch_stats"]}
        assert jax.tree.all(jax.tree.map(np.array_equal, weights.variables, expected))
        assert not np.array_equal(state["ema"]["dense_2"]["kernel"], state["params"]["dense_2"]["kernel"])
    row = run("convert", tmp_path / "run", tmp_path / "w.safetensors", "--dry-run")[1].splitlines()[1]
    assert row.split()[:2] == ["ema.conv1.kernel", "params.conv1.kernel"]

    assert run("convert", tmp_path / "run", tmp_path / "w.weights.h5", "--checkpoint=latest")[0] == 0
    keras_model = make_random_mobilenet(0.25, "article_bn", (32, 32), seed=1)
    keras_model.load_weights(tmp_path / "w.weights.h5")
    images = np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)).astype(np.float32)
    apply = jax.jit(weights.architecture.build_model().apply, static_argnames="train")
    outputs = apply(weights.variables, images, train=False)
    assert compute_relative_error(outputs, keras_model.predict(images, verbose=0)) < 1e-4
