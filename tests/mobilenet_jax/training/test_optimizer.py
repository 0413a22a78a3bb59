"""Learning rates and optimizers, alone and in a train step."""

import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from configs.mobilenet import get_config
from mobilenet_jax.model.layers import BatchNorm
from mobilenet_jax.model.mobilenet import DepthwiseSeparableBlock, MobileNet
from mobilenet_jax.training.losses import cross_entropy
from mobilenet_jax.training.optimizer import compute_plateau_scale, make_optimizer, make_schedule
from mobilenet_jax.training.step import (
    Objective,
    compute_ema_decay,
    create_train_state,
    make_eval_step,
    make_train_step,
)
from mobilenet_jax.weights.load import load_pretrained

ONE = jnp.float32(1)
MODEL = MobileNet(0.25, "small", dropout=0.0)
HEAD_ONLY = MODEL.clone(frozen_blocks=13, batch_norm="train")  # its step compiles in a fifth of the time


EPOCHS, STEPS_PER_EPOCH = 10, 5


def _make_settings(**changes):
    settings = get_config().optimizer
    settings.update({"name": "sgd", "learning_rate": 0.1, "momentum": 0.0, **changes})
    return settings


def _make_schedule(settings):
    return make_schedule(settings, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)


def _make_optimizer(model=MODEL, **changes):
    settings = _make_settings(**changes)
    return make_optimizer(settings, _make_schedule(settings), model)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(lambda k: MODEL.init(k, jnp.zeros((1, 32, 32, 3)), train=False))(jax.random.key(0, impl="rbg"))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {"image": rng.random((8, 32, 32, 3), np.float32), "label": np.arange(8, dtype=np.int32) % 7}


def _make_state(variables, optimizer, ema=False):
    """Creates the state from copies, because a step donates its state."""
    params, batch_stats = jax.tree.map(jnp.copy, (variables["params"], variables["batch_stats"]))
    return create_train_state(params, batch_stats, optimizer, ema=ema)


@pytest.fixture(scope="module")
def plain_step():
    """Returns the step of `HEAD_ONLY` without further settings; compiling it is most of the time of a test."""
    return make_train_step(HEAD_ONLY, _make_optimizer(HEAD_ONLY), jax.random.key(1, impl="rbg"))


def _run_step(variables, batch, model=HEAD_ONLY, objective=None, step=None, **changes):
    optimizer = _make_optimizer(model, **changes)
    step = step or make_train_step(model, optimizer, jax.random.key(1, impl="rbg"), objective or Objective())
    return step(_make_state(variables, optimizer), batch, ONE)


def _compute_rates(steps, **changes):
    schedule = _make_schedule(_make_settings(**changes))
    return [float(schedule(step)) for step in steps]


def test_the_constant_rate_is_constant_after_a_linear_warmup():
    assert _compute_rates([0, 1, 49]) == pytest.approx([0.1] * 3)
    assert _compute_rates([0, 1, 5, 9, 10, 49], warmup_epochs=2) == pytest.approx([0, 0.01, 0.05, 0.09, 0.1, 0.1])


def test_the_cosine_decays_to_0_at_the_end():
    middle = 0.05
    assert _compute_rates([0, 25, 50], schedule="cosine") == pytest.approx([0.1, middle, 0], abs=1e-8)
    after_warmup = _compute_rates([0, 5, 10, 30, 50], schedule="cosine", warmup_epochs=2)
    assert after_warmup == pytest.approx([0, 0.05, 0.1, middle, 0], abs=1e-8)
    assert 0 < _compute_rates([49], schedule="cosine")[0] < 1e-3


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_the_plateau_scale_equals_keras(patience):
    rng = np.random.default_rng(patience)
    values = [*np.round(rng.uniform(0, 1, 30) * np.linspace(2, 1, 30), 2), 0.5, 0.49995, 0.4999, 0.499, 0.6, 0.6, 0.6]
    settings = _make_settings(schedule="plateau", plateau_factor=0.5, plateau_patience=patience)
    optimizer = SimpleNamespace(learning_rate=np.float64(1))
    callback = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=patience)
    callback.set_model(SimpleNamespace(optimizer=optimizer))
    callback.on_train_begin()
    scales, expected = [], []
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {"val_loss": value})
        scales.append(compute_plateau_scale(settings, values[: epoch + 1]))
        expected.append(float(optimizer.learning_rate))
    assert scales == pytest.approx(expected)
    assert scales[-1] < 0.5
    assert compute_plateau_scale(settings, []) == 1
    assert compute_plateau_scale(_make_settings(), values) == 1


def test_the_scale_multiplies_the_update(variables, batch, plain_step):
    start = variables["params"]["predictions"]["kernel"]
    states = [_make_state(variables, _make_optimizer(HEAD_ONLY)) for _ in range(2)]
    moved = [
        plain_step(state, batch, jnp.float32(scale))[0].params["predictions"]["kernel"] - start
        for state, scale in zip(states, (1, 0.25), strict=True)
    ]
    np.testing.assert_allclose(moved[1], 0.25 * moved[0], atol=1e-7)


def test_gradients_are_clipped_by_their_global_norm():
    gradients = {"a": {"kernel": jnp.array([3.0])}, "b": {"bias": jnp.array([4.0])}}
    for clip_norm, expected in ((1.0, [0.6, 0.8]), (5.0, [3, 4]), (100.0, [3, 4]), (0.0, [3, 4])):
        optimizer = _make_optimizer(learning_rate=1.0, clip_norm=clip_norm)
        updates, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
        assert [-float(x[0]) for x in jax.tree.leaves(updates)] == pytest.approx(expected)


@pytest.mark.parametrize("frozen_blocks", [0, 5, 13])
def test_weight_decay_applies_to_trained_kernels_only(variables, frozen_blocks):
    model = MobileNet(0.25, "small", frozen_blocks=frozen_blocks)
    params = jax.tree.map(lambda x: np.asarray(x) + 1, variables["params"])
    optimizer = _make_optimizer(model, weight_decay=0.5)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zeros, jax.jit(optimizer.init)(params), params)
    for layer, tensors in updates.items():
        for tensor, update in tensors.items():
            decays = tensor == "kernel" and layer not in model.frozen_layers
            np.testing.assert_allclose(update, (-0.1 * 0.5 if decays else 0) * params[layer][tensor], rtol=1e-6)


def test_the_optimizer_holds_no_moments_of_frozen_layers(variables):
    model = MobileNet(0.25, "small", frozen_blocks=13)
    state = _make_optimizer(model, momentum=0.9).init(variables["params"])
    assert sum(x.size for x in jax.tree.leaves(optax.tree.get(state, "trace"))) == 256 * 7 + 7


def test_the_moving_average_of_frozen_layers_keeps_their_values_to_the_bit(variables, batch):
    model = MobileNet(0.25, "small", frozen_blocks=13)
    optimizer = _make_optimizer(model, learning_rate=0.3)
    step = make_train_step(model, optimizer, jax.random.key(1, impl="rbg"), Objective(ema_decay=0.9))
    state = _make_state(variables, optimizer, ema=True)
    start = jax.device_get(state.params)
    for _ in range(2):
        state, _, _ = step(state, batch, ONE)
    changed = {layer for layer, values in start.items() if _differs(values, state.ema[layer])}
    assert changed == {"predictions"}


def _differs(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return any(np.asarray(a).tobytes() != np.asarray(b).tobytes() for a, b in pairs)


def test_the_moving_average_follows_its_formula_and_is_evaluated(variables, batch):
    optimizer = _make_optimizer(learning_rate=0.3)
    step = make_train_step(MODEL, optimizer, jax.random.key(1, impl="rbg"), Objective(ema_decay=0.15))
    state = _make_state(variables, optimizer, ema=True)
    average = jax.device_get(state.params)
    for i in range(3):
        state, _, _ = step(state, batch, ONE)
        decay = min(0.15, (1 + i) / (10 + i))  # 0.1 in the first step, 0.15 afterwards
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * np.asarray(p), average, state.params)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6), state.ema, average)
    evaluated = make_eval_step(MODEL)(state, {**batch, "mask": np.ones(8, bool)})
    expected, other = (
        cross_entropy(
            jax.jit(
                lambda p: MODEL.apply({"params": p, "batch_stats": state.batch_stats}, batch["image"], train=False)
            )(p),
            batch["label"],
        )
        for p in (state.ema, state.params)
    )
    np.testing.assert_allclose(evaluated.loss, expected, rtol=1e-5)
    assert not np.allclose(evaluated.loss, other, rtol=1e-3)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.1), (8, 0.5), (8990, 0.999), (10**6, 0.999)])
def test_the_decay_of_the_average_warms_up(step, expected):
    assert float(compute_ema_decay(0.999, jnp.int32(step))) == pytest.approx(expected, abs=1e-6)
    assert float(compute_ema_decay(0.5, jnp.int32(step))) == pytest.approx(min(0.5, expected), abs=1e-6)


def _step_twice(optimizer, params):
    """Returns the parameters after two updates with gradients sampled for them."""
    rng, state, apply = np.random.default_rng(0), optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(2):
        gradients = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)
        updates, state = apply(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


OPTIMIZERS = ("sgd", "adadelta", "adam", "adamw")


@pytest.mark.parametrize("name", ["sgd", "adamw", *(pytest.param(n, marks=pytest.mark.slow) for n in OPTIMIZERS[1:3])])
def test_the_ratio_multiplies_the_learning_rate_of_the_backbone_only(variables, name):
    """Compares with two optimizers, one of each rate; clipping, decay, frozen blocks and a schedule are active."""
    model = MobileNet(0.25, "small", frozen_blocks=3)
    common = {"name": name, "momentum": 0.9, "weight_decay": 0.1, "clip_norm": 1.0, "warmup_epochs": 1}
    start = variables["params"]
    together, slow, fast = (
        _step_twice(_make_optimizer(model, **common, **changes), start)
        for changes in ({"backbone_rate_ratio": 0.1}, {"learning_rate": 0.01}, {})
    )
    # The first step has the learning rate 0, so the parameters before the second one are equal.
    for layer, tensors in together.items():
        expected = slow if layer in model.backbone_layers else fast
        for tensor, value in tensors.items():
            np.testing.assert_allclose(value, expected[layer][tensor], rtol=1e-5, atol=1e-7)
            assert np.array_equal(value, start[layer][tensor]) == (layer in model.frozen_layers)


@pytest.mark.parametrize("frozen_blocks", [0, 3])
def test_the_learning_rate_decays_by_blocks(variables, frozen_blocks):
    model = MobileNet(0.25, "small", frozen_blocks=frozen_blocks)
    start = variables["params"]
    decayed, whole = (_step_twice(_make_optimizer(model, **c), start) for c in ({"block_rate_decay": 0.5}, {}))
    powers = {"conv1": 13, "conv_dw_4": 9, "conv_pw_12_bn": 1, "conv_pw_13": 0, "predictions": 0}
    for layer, power in powers.items():
        for name, value in decayed[layer].items():
            expected = 0.5**power * (whole[layer][name] - start[layer][name])
            np.testing.assert_allclose(value - start[layer][name], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "make_keras_optimizer"),
    [
        ("adam", lambda: keras.optimizers.Adam(0.1)),
        ("adamw", lambda: keras.optimizers.AdamW(0.1, weight_decay=0.3)),
    ],
)
def test_adam_and_adamw_equal_keras(name, make_keras_optimizer):
    start = np.array([1.0, -2.0, 3.0], np.float32)
    gradients = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    variable, keras_optimizer = keras.Variable(start), make_keras_optimizer()
    optimizer = _make_optimizer(name=name, weight_decay=0.3 if name == "adamw" else 0.0)
    params = {"predictions": {"kernel": jnp.array(start)}}
    state = optimizer.init(params)
    for gradient in gradients:
        keras_optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        updates, state = optimizer.update({"predictions": {"kernel": jnp.array(gradient)}}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["predictions"]["kernel"], np.asarray(variable), rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_kernel_without_gradient_decays_decoupled_with_adamw_only(variables, name):
    params = jax.tree.map(lambda x: np.asarray(x) + 1, variables["params"])
    optimizer = _make_optimizer(name=name, weight_decay=0.5)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zeros, jax.jit(optimizer.init)(params), params)
    decoupled = {"sgd": True, "adadelta": False, "adam": False, "adamw": True}[name]  # equal for plain SGD
    for tensors in updates.values():
        for tensor, update in tensors.items():
            if tensor != "kernel":
                np.testing.assert_array_equal(update, 0)
    kernel = params["conv_pw_1"]["kernel"]
    assert np.allclose(updates["conv_pw_1"]["kernel"], -0.1 * 0.5 * kernel, rtol=1e-6) == decoupled


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_holds_no_moments_of_frozen_layers(variables, name):
    model = MobileNet(0.25, "small", frozen_blocks=13)
    state = _make_optimizer(model, name=name, weight_decay=0.1).init(variables["params"])
    assert sum(x.size for x in jax.tree.leaves(optax.tree.get(state, "nu"))) == 256 * 7 + 7


def test_the_layers_of_the_backbone_are_all_but_those_of_the_head(variables):
    assert variables["params"].keys() - MODEL.backbone_layers == {"predictions"}
    assert MODEL.backbone_layers == MobileNet(0.25, "small", frozen_blocks=13).frozen_layers


def test_without_an_average_the_parameters_are_evaluated(variables, batch, plain_step):
    state, _, _ = _run_step(variables, batch, step=plain_step)
    assert state.ema is None


def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32(variables, batch):
    model = MODEL.clone(dtype=jnp.bfloat16)
    optimizer = _make_optimizer(model, momentum=0.9)
    step = make_train_step(model, optimizer, jax.random.key(1, impl="rbg"))
    outputs = jax.eval_shape(step, _make_state(variables, optimizer), batch, ONE)
    floats = [x for x in jax.tree.leaves(outputs) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    assert jax.eval_shape(lambda: model.apply(variables, batch["image"], train=False)).dtype == jnp.float32


@pytest.mark.slow
def test_the_objective_in_bfloat16_is_near_that_in_float32(weights, variables):
    """Uses trained weights, because with random ones batch normalization amplifies rounding even more.

    On eight batches of noise like this one, the objective differed from float32's by up to 0.18 of its value.
    """
    _, backbone = load_pretrained(weights[0.25])
    trained = {**backbone, "params": {**backbone["params"], "predictions": variables["params"]["predictions"]}}
    images = np.random.default_rng(0).random((8, 64, 64, 3), np.float32)
    batch = {"image": images, "label": np.arange(8, dtype=np.int32) % 7}
    model = MODEL.clone(dtype=jnp.bfloat16)
    _, _, objective = _run_step(trained, batch, model, momentum=0.9)
    logits, _ = jax.jit(lambda: MODEL.apply(trained, images, train=True, mutable=["batch_stats"]))()
    exact = float(cross_entropy(logits, batch["label"]).mean())
    assert float(objective) == pytest.approx(exact, rel=0.25)
    assert float(objective) != pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_in_bfloat16_is_that_in_float32_to_two_percent(stride):
    """Over the thirteen blocks of the network, batch normalization amplifies the rounding of each."""

    def make_block(dtype):
        norm = functools.partial(BatchNorm, use_running_average=False, momentum=0.99, epsilon=1e-3, dtype=dtype)
        return DepthwiseSeparableBlock(1, 24, stride, ((1, 1), (1, 1)), norm, plain_convolutions=False)

    x = jax.random.normal(jax.random.key(0), (4, 16, 16, 16))
    variables = make_block(jnp.float32).init(jax.random.key(1), x)
    exact, _ = make_block(jnp.float32).apply(variables, x, mutable=["batch_stats"])
    rounded, _ = make_block(jnp.bfloat16).apply(variables, x.astype(jnp.bfloat16), mutable=["batch_stats"])
    assert rounded.dtype == jnp.bfloat16
    error = jnp.linalg.norm(rounded.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
    assert 1e-4 < error < 0.02


@pytest.mark.parametrize(("batch_norm", "moves"), [("train", True), ("frozen", False)])
def test_statistics_of_frozen_blocks_are_updated_only_with_batch_norm_train(variables, batch, batch_norm, moves):
    model = MobileNet(0.25, "small", dropout=0.0, frozen_blocks=13, batch_norm=batch_norm)
    state, _, _ = _run_step(variables, batch, model)
    for layer in model.frozen_layers:
        jax.tree.map(np.testing.assert_array_equal, state.params[layer], variables["params"][layer])
        if layer.endswith("_bn"):
            for tensor, value in variables["batch_stats"][layer].items():
                assert (state.batch_stats[layer][tensor] != value).any() == moves, (layer, tensor)
    assert (state.params["predictions"]["bias"] != variables["params"]["predictions"]["bias"]).any()


def test_class_weights_and_smoothing_affect_the_objective_but_not_the_result(variables, batch):
    weights = np.linspace(0.5, 2, 7, dtype=np.float32)
    _, result, objective = _run_step(variables, batch, objective=Objective(class_weights=weights))
    assert float(objective) == pytest.approx(
        float(np.mean(np.asarray(result.loss) * weights[batch["label"]])), rel=1e-5
    )
    _, plain, smoothed = _run_step(variables, batch, objective=Objective(label_smoothing=0.2))
    np.testing.assert_allclose(plain.loss, result.loss, rtol=1e-5)
    assert float(smoothed) != pytest.approx(float(plain.loss.mean()), rel=1e-4)


def test_deferred_class_weights_apply_from_their_step_on(variables, batch):
    weights = np.linspace(0.5, 2, 7, dtype=np.float32)
    for first, is_weighted in ((0, True), (1, False)):
        objective = Objective(class_weights=weights, first_weighted_step=first)
        _, result, value = _run_step(variables, batch, objective=objective)
        factors = weights[batch["label"]] if is_weighted else 1
        assert float(value) == pytest.approx(float(np.mean(np.asarray(result.loss) * factors)), rel=1e-5)
    logits, targets = jnp.zeros((1, 7)), jnp.array([6])
    assert float(objective.compute_loss(logits, targets, jnp.int32(1))) == pytest.approx(2 * np.log(7))


def test_soft_labels_replace_the_labels_in_the_objective_but_not_in_the_result(variables, batch, plain_step):
    soft = np.random.default_rng(0).dirichlet(np.ones(7), 8).astype(np.float32)
    _, hard, value = _run_step(variables, batch, step=plain_step)
    assert float(value) == pytest.approx(float(hard.loss.mean()), rel=1e-5)
    _, result, value = _run_step(variables, {**batch, "soft_label": soft}, step=plain_step)
    np.testing.assert_allclose(result.loss, hard.loss, rtol=1e-5)
    same = [{**batch, "label": np.full(8, c, np.int32)} for c in range(7)]
    all_labels = [_run_step(variables, labeled, step=plain_step)[1].loss for labeled in same]
    assert float(value) == pytest.approx(float((soft * np.stack(all_labels, 1)).sum(1).mean()), rel=1e-4)


def test_unknown_names_are_refused():
    settings = _make_settings()
    with pytest.raises(ValueError, match="unknown schedule 'linear'"):
        _make_schedule(_make_settings(schedule="linear"))
    settings.name = "rmsprop"
    with pytest.raises(ValueError, match="unknown optimizer 'rmsprop'"):
        make_optimizer(settings, _make_schedule(settings), MODEL)
