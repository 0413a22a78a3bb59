import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilenet_jax.training.config import parse_config
from mobilenet_jax.training.losses import compute_logit_offset
from mobilenet_jax.training.setup import (
    build_program,
    choose_epochs,
    init_model,
    make_objective,
    warn_of_contradictions,
)
from mobilenet_jax.weights.load import load_pretrained, names_weights
from tests.helpers.runs import make_config


@pytest.mark.parametrize(("text", "expected"), [("none", False), ("NONE", False), ("", False), ("imagenet", True)])
def test_no_weights_are_spelled_in_any_case(text, expected):
    config, _ = parse_config("isic2018", [f"--config.init.weights={text}"])
    assert names_weights(config.init.weights) == expected


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


def test_the_objective_has_all_settings_of_the_configuration(data):
    regularizer = {"kernel_l1": 0.1, "kernel_l2": 0.2, "activity_l1": 0.3, "activity_l2": 0.4}
    changes = {
        "loss.label_smoothing": 0.1, "loss.focal_gamma": 2.0, "loss.logit_adjustment": 0.5,
        "loss.class_weights": "balanced", "loss.weights_from_epoch": 3, "augment.mixup": 0.2, "augment.cutmix": 1.0,
        "train.ema_decay": 0.9, "model.num_classes": 2, "regularizer": regularizer,
    }  # fmt: skip
    config = make_config(data, **changes)
    labels = np.array([0, 0, 0, 1])
    objective = make_objective(config, labels, steps_per_epoch=10)
    assert objective.regularizer._asdict() == regularizer
    assert (objective.label_smoothing, objective.focal_gamma, objective.ema_decay) == (0.1, 2, 0.9)
    assert objective.first_weighted_step == 30
    assert objective.mixing._asdict() == {"mixup": 0.2, "cutmix": 1.0}
    np.testing.assert_allclose(objective.class_weights, [2 / 3, 2])
    np.testing.assert_array_equal(objective.logit_offset, compute_logit_offset(labels, 2, 0.5))


def test_the_program_has_the_precision_the_schedule_and_the_average_of_the_configuration(data):
    changes = {"train__precision": "bfloat16", "train__ema_decay": 0.9, "optimizer__schedule": "cosine"}
    config = make_config(data, train__epochs=4, **changes)
    program, state, _ = build_program(config, np.arange(7), steps_per_epoch=5)
    assert program.model.dtype == jnp.bfloat16
    assert state.ema is not None
    rates = [float(program.schedule(step)) for step in (0, 10, 20)]
    np.testing.assert_allclose(rates, [config.optimizer.learning_rate * x for x in (1, 0.5, 0)], atol=1e-9)


@pytest.mark.parametrize(("steps_per_epoch", "epochs"), [(1, 60), (25, 60), (26, 58), (100, 15), (500, 15)])
def test_small_data_are_trained_for_more_epochs(steps_per_epoch, epochs):
    assert choose_epochs(steps_per_epoch) == epochs


def test_settings_that_contradict_each_other_are_warned_of(data, caplog):
    changes = {"data__sampling": "balanced", "loss__class_weights": "balanced", "regularizer__kernel_l2": 0.01}
    warn_of_contradictions(make_config(data, **changes))
    double, unused = caplog.messages
    assert "several settings correct for rare classes" in double
    assert unused.startswith("regularizer.kernel_l2 has no effect: model.head=small")
    caplog.clear()
    warn_of_contradictions(make_config(data, model__head="article", **{**changes, "data__sampling": "uniform"}))
    assert caplog.messages == []
    frozen = {"model__frozen_blocks": 13, "train__batch_size": 2}
    for head, is_warned in (("article", False), ("article_bn", True)):
        warn_of_contradictions(make_config(data, model__head=head, **frozen))
        assert caplog.messages == is_warned * [
            "train.batch_size is 2: batch normalization needs at least 4 images per batch"
        ]
    caplog.clear()
    late = {"optimizer__warmup_epochs": 3, "loss__class_weights": "balanced", "loss__weights_from_epoch": 2}
    warn_of_contradictions(make_config(data, train__epochs=2, **late))
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "optimizer.warmup_epochs is 3",
        "loss.weights_from_epoch is 2",
    ]
