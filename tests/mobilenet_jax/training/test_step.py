import re

import jax
import jax.export
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from configs.mobilenet import get_config
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.training.epoch_metrics import compute_epoch_metrics
from mobilenet_jax.training.optimizer import make_optimizer, make_schedule
from mobilenet_jax.training.step import BatchResult, create_train_state, make_eval_step, make_train_step
from mobilenet_jax.weights.load import load_pretrained

MODEL = MobileNet(0.25, "small", dropout=0.5)
ONE = jnp.float32(1)  # the scale of the update


def _make_optimizer(name, learning_rate, momentum=0.0, model=MODEL):
    settings = get_config().optimizer
    settings.update(name=name, learning_rate=learning_rate, momentum=momentum)
    return make_optimizer(settings, make_schedule(settings, epochs=1, steps_per_epoch=10), model)


def _make_state_and_step(optimizer):
    variables = jax.jit(lambda k: MODEL.init(k, jnp.zeros((1, 32, 32, 3)), train=False))(jax.random.key(0, impl="rbg"))
    state = create_train_state(variables["params"], variables["batch_stats"], optimizer)
    return state, make_train_step(MODEL, optimizer, jax.random.key(1, impl="rbg"))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {"image": rng.random((8, 32, 32, 3), np.float32), "label": np.arange(8, dtype=np.int32) % 7}


def test_a_step_descends_the_gradient_of_the_mean_cross_entropy(batch):
    optimizer = _make_optimizer("sgd", 0.1, 0.0)
    state, step = _make_state_and_step(optimizer)
    variables = {"params": state.params, "batch_stats": state.batch_stats}

    def compute_loss(params):
        dropout = jax.random.fold_in(jax.random.key(1, impl="rbg"), 0)
        logits, _ = MODEL.apply(
            {**variables, "params": params},
            batch["image"],
            train=True,
            rngs={"dropout": dropout},
            mutable=["batch_stats"],
        )
        return -jax.nn.log_softmax(logits)[jnp.arange(8), batch["label"]].mean()

    value, grads = jax.jit(jax.value_and_grad(compute_loss))(state.params)
    expected = jax.tree.map(lambda p, g: np.asarray(p) - 0.1 * np.asarray(g), state.params, grads)
    after, result, objective = step(state, batch, ONE)
    assert int(after.step) == 1
    np.testing.assert_allclose([result.loss.mean(), objective], value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after.params, expected)


@pytest.mark.parametrize(("frozen_blocks", "optimizer"), [(0, "sgd"), (4, "sgd"), (13, "sgd"), (13, "adadelta")])
def test_a_step_from_converted_weights_changes_all_tensors_except_frozen_ones(weights, batch, frozen_blocks, optimizer):
    model = MobileNet(0.25, "small", frozen_blocks=frozen_blocks)
    _, backbone = load_pretrained(weights[0.25])
    kernel = np.random.default_rng(0).normal(0, 0.1, (256, 7)).astype(np.float32)
    head = {"predictions": {"kernel": kernel, "bias": np.zeros(7, np.float32)}}
    before = {"params": {**backbone["params"], **head}, "batch_stats": backbone["batch_stats"]}
    optimizer = _make_optimizer(optimizer, 0.1, 0.9, model)
    state = jax.tree.map(jnp.array, create_train_state(before["params"], before["batch_stats"], optimizer))
    after, _, _ = make_train_step(model, optimizer, jax.random.key(1, impl="rbg"))(state, batch, ONE)
    unchanged = {
        f"{layer}.{tensor}"
        for collection, layers in before.items()
        for layer, tensors in layers.items()
        for tensor, value in tensors.items()
        if getattr(after, collection)[layer][tensor].tobytes() == value.tobytes()
    }
    assert {name.split(".")[0] for name in unchanged} == model.frozen_layers
    assert len(unchanged) == 5 * (2 * frozen_blocks + bool(frozen_blocks))  # kernel, scale, bias, mean, var


@pytest.mark.slow
def test_training_fits_a_batch_and_repeats_to_the_bit(batch):
    def train():
        state, step = _make_state_and_step(_make_optimizer("sgd", 0.01, 0.9))
        losses = []
        for _ in range(40):
            state, result, _ = step(state, batch, ONE)
            losses.append(float(result.loss.mean()))
        return losses, jax.device_get(state)

    (losses, first), (repeated_losses, second) = train(), train()
    assert losses == repeated_losses
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))
    assert losses[-1] < 0.5 * losses[0]


def test_evaluation_is_deterministic_and_keeps_the_mask(batch):
    state, _ = _make_state_and_step(_make_optimizer("sgd", 0.1, 0.9))
    evaluate = make_eval_step(MODEL)
    masked = {**batch, "mask": np.arange(8) < 5}
    first, second = evaluate(state, masked), evaluate(state, masked)
    np.testing.assert_array_equal(first.loss, second.loss)
    np.testing.assert_array_equal(first.mask, masked["mask"])


@pytest.mark.parametrize(
    ("name", "momentum", "make_keras_optimizer"),
    [
        ("sgd", 0.9, lambda: keras.optimizers.SGD(0.5, momentum=0.9)),
        ("adadelta", 0.9, lambda: keras.optimizers.Adadelta(0.5, rho=0.95)),
    ],
)
def test_optimizers_equal_keras(name, momentum, make_keras_optimizer):
    start = np.array([1.0, -2.0, 3.0], np.float32)
    gradients = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    variable, keras_optimizer = keras.Variable(start), make_keras_optimizer()
    optimizer, params = _make_optimizer(name, 0.5, momentum), {"kernel": jnp.array(start)}
    opt_state = optimizer.init(params)
    for gradient in gradients:
        keras_optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        updates, opt_state = optimizer.update({"kernel": jnp.array(gradient)}, opt_state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["kernel"], np.asarray(variable), rtol=1e-5)


def test_epoch_metrics_equal_sklearn_over_all_unmasked_examples():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, 7))
    label, mask = rng.integers(0, 5, 20), np.arange(20) < 17  # classes 5 and 6 do not occur
    log_p = np.asarray(jax.nn.log_softmax(logits))
    whole = BatchResult(-log_p[np.arange(20), label], logits.argmax(-1), label, mask)
    parts = [jax.tree.map(lambda x, i=i: x[i : i + 5], whole) for i in range(0, 20, 5)]
    metrics = compute_epoch_metrics(parts)
    y, p = label[:17], logits[:17].argmax(-1)
    assert metrics["accuracy"] == accuracy_score(y, p)
    recalls = [np.mean(p[y == c] == c) for c in range(5) if (y == c).any()]
    np.testing.assert_allclose(metrics["balanced_accuracy"], np.mean(recalls))
    assert metrics["balanced_accuracy"] == pytest.approx(_call_with_warning(balanced_accuracy_score, y, p))
    assert metrics["loss"] == pytest.approx(log_loss(y, np.exp(log_p[:17]), labels=range(7)), rel=1e-5)


def _call_with_warning(function, *args):
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        return function(*args)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 0), ("cuda", 13), ("tpu", 13)])
def test_the_step_is_lowered_for_a_platform_without_the_forms_of_others(batch, platform, convolutions):
    """Counts the grouped convolutions of a forward pass; the shifted form on a CPU has loops instead."""
    state, step = _make_state_and_step(_make_optimizer("sgd", 0.1))
    exported = jax.export.export(step, platforms=[platform])(state, batch, ONE).mlir_module()
    grouped = re.findall(r"stablehlo.convolution.*feature_group_count = (?!1\b)\d+", exported)
    assert len(grouped) >= convolutions
    assert bool(grouped) == bool(convolutions)
    assert ("stablehlo.while" in exported) == (platform == "cpu")
