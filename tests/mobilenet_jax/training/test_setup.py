import hashlib

import jax
import numpy as np
import pytest

from mobilenet_jax.training.config import parse_config
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.training.setup import has_initial_weights, init_model, load_examples
from mobilenet_jax.weights.load import load_pretrained
from tests.helpers.runs import make_config


def _load(config):
    return load_examples(config.data, config.model.num_classes, config.seed)


def test_the_split_of_a_run_can_be_used_by_another_run(data, tmp_path, caplog):
    caplog.set_level("INFO")
    train_and_evaluate(make_config(data, train__epochs=1), tmp_path / "run")
    split = tmp_path / "run" / "splits.csv"
    caplog.clear()
    _, validation = _load(make_config(data))
    assert caplog.messages[-1].endswith("lesions in both subsets: 0")
    assert hashlib.sha256(split.read_bytes()).hexdigest()[:12] in caplog.messages[-1]
    _, again = _load(make_config(data, data__split=str(split), seed=5))
    assert again.paths.tolist() == validation.paths.tolist()


def test_a_split_with_lesions_in_both_subsets_warns(data, caplog):
    caplog.set_level("INFO")
    _load(make_config(data, data__split="last:0.31"))
    *_, split, warning = caplog.records
    assert split.getMessage().endswith("lesions in both subsets: 1")
    assert warning.levelname == "WARNING"
    assert warning.getMessage().startswith("1 lesions are in both subsets, so validation metrics are optimistic")


@pytest.mark.parametrize(("text", "expected"), [("none", False), ("NONE", False), ("", False), ("imagenet", True)])
def test_no_weights_are_spelled_in_any_case(text, expected):
    config, _ = parse_config("isic2018", [f"--config.init.weights={text}"])
    assert has_initial_weights(config.init) == expected


def test_pretrained_weights_replace_the_backbone_only(data, weights):
    config = make_config(data, init__weights=str(weights[0.25]))
    _, variables, input_scaling = init_model(config, jax.random.key(0, impl="rbg"))
    assert input_scaling == (0, 1), "the article's, unless the configuration follows the weights"
    _, pretrained = load_pretrained(weights[0.25])
    assert set(variables["params"]) == {*pretrained["params"], "predictions"}
    for collection in ("params", "batch_stats"):
        for layer, tensors in pretrained[collection].items():
            for name, value in tensors.items():
                np.testing.assert_array_equal(variables[collection][layer][name], value)


@pytest.mark.parametrize("name", ["weights", "1/255"])
def test_the_input_scaling_follows_the_configuration(data, weights, name):
    config = make_config(data, init__weights=str(weights[0.25]), init__input_scaling=name)
    _, _, input_scaling = init_model(config, jax.random.key(0, impl="rbg"))
    assert input_scaling == {"weights": (-1, 1), "1/255": (0, 1)}[name]
