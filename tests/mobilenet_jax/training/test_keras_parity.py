"""Steps of training beside Keras on TensorFlow: the same weights, images and labels, tensor by tensor.

Keras's versions differ in the activity regularizer: since TensorFlow 1.13 its sum over the batch is divided by the size
of the batch, in the Keras of 2018, which the article used, it was not. This project divides, as the Keras 3 seen here.
"""

from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from PIL import Image

from configs.mobilenet import get_config
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.training.losses import Regularizer
from mobilenet_jax.training.optimizer import make_optimizer, make_schedule
from mobilenet_jax.training.step import Objective, create_train_state, make_train_step
from mobilenet_jax.weights.load import load_pretrained
from tests.helpers.keras_models import relative_error

SIZE, BATCH, STEPS = 96, 8, 3


SGD = {"name": "sgd", "learning_rate": 0.001, "momentum": 0.9}
ADADELTA = {"name": "adadelta", "learning_rate": 1.0}


class Case(NamedTuple):
    """How both sides train."""

    head: str = "article"
    optimizer: dict[str, Any] = SGD
    regularizer: Regularizer = Regularizer()
    frozen_blocks: int = 0

    @property
    def activity(self):
        return self.regularizer.activity_l1 or self.regularizer.activity_l2


L2 = Regularizer(kernel_l2=0.01, activity_l2=0.01)
ALL_FOUR = Regularizer(kernel_l1=1e-4, kernel_l2=0.01, activity_l1=1e-3, activity_l2=0.01)
CASES = {
    "sgd": Case(),
    "adadelta": Case(optimizer=ADADELTA),
    "bn regularized": Case("article_bn", regularizer=ALL_FOUR),
    "frozen": Case(frozen_blocks=13),
    "bn": Case("article_bn"),
    "regularized": Case(regularizer=ALL_FOUR),
    "bn l2 adadelta": Case("article_bn", ADADELTA, L2),
    "small, half frozen, adadelta": Case("small", ADADELTA, frozen_blocks=6),
    "bn frozen": Case("article_bn", frozen_blocks=13),
}
FAST = ("sgd", "adadelta", "bn regularized", "frozen")
FAST_IN_FLOAT32 = ("frozen",)


def head_layers(head):
    """The sizes (inputs, outputs) of the dense layers of a head."""
    features = 256 * (SIZE // 32) ** 2
    last = {"predictions": (256 if head == "small" else 1024, 7)}
    return last if head == "small" else {"dense_1": (features, 1024), "dense_2": (1024, 1024), **last}


def starting_tensors(file, case):
    """The backbone of the file and a drawn head: `{collection: {layer: {tensor: array}}}`."""
    backbone, rng = load_pretrained(file)[1], np.random.default_rng(0)
    params, batch_stats = dict(backbone["params"]), dict(backbone["batch_stats"])
    for name, (inputs, outputs) in head_layers(case.head).items():
        params[name] = {"kernel": rng.normal(0, 1 / np.sqrt(inputs), (inputs, outputs)), "bias": np.zeros(outputs)}
        if case.head == "article_bn" and name != "predictions":
            params[f"{name}_bn"] = {"scale": np.ones(outputs), "bias": np.zeros(outputs)}
            batch_stats[f"{name}_bn"] = {"mean": np.zeros(outputs), "var": np.ones(outputs)}
    return jax.tree.map(np.float32, {"params": params, "batch_stats": batch_stats})


def keras_model(case):
    """Keras's MobileNet with the layers of a head as the article's code has them; dropout is left out."""
    base = keras.applications.MobileNet(weights=None, include_top=False, alpha=0.25, input_shape=(SIZE, SIZE, 3))
    layers, r = keras.layers, case.regularizer
    x = (layers.GlobalAveragePooling2D() if case.head == "small" else layers.Flatten())(base.output)
    for name, (_, units) in head_layers(case.head).items():
        if name == "predictions":
            x = layers.Dense(units, name=name)(x)
            continue
        x = layers.Dense(
            units,
            activation=None if case.head == "article_bn" else "relu",
            kernel_regularizer=keras.regularizers.L1L2(r.kernel_l1, r.kernel_l2),
            activity_regularizer=keras.regularizers.L1L2(r.activity_l1, r.activity_l2),
            name=name,
        )(x)
        if case.head == "article_bn":
            x = layers.ReLU()(layers.BatchNormalization(name=f"{name}_bn")(x))
    model = keras.Model(base.input, x)
    for layer in model.layers:
        layer.trainable = layer.name not in MobileNet(frozen_blocks=case.frozen_blocks).frozen_layers()
    return model


NAMES = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}


def layer_and_tensor(variable):
    *_, layer, tensor = variable.path.split("/")
    return f"{layer}.{NAMES.get(tensor, tensor)}"


def is_depthwise(variable):
    """Such a kernel is [3, 3, channels, 1] in Keras, [3, 3, 1, channels] here."""
    return "conv_dw" in variable.path and len(variable.shape) == 4


def as_mine(variable, value):
    value = np.asarray(value)
    return value.transpose(0, 1, 3, 2) if is_depthwise(variable) else value


def flatten(tree):
    return {f"{layer}.{tensor}": np.asarray(value) for layer in tree for tensor, value in tree[layer].items()}


@contextmanager
def computing_in(dtype):
    """Both frameworks in float32 or float64."""
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        with jax.enable_x64(dtype == "float64"):
            yield
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def kerass_steps(case, dtype, start, batches):
    """After each step: the value of the objective, and parameters, statistics and moments by name."""
    settings = case.optimizer
    with computing_in(dtype):
        model = keras_model(case)
        values = flatten(start["params"]) | flatten(start["batch_stats"])
        for variable in model.weights:
            value = values.pop(layer_and_tensor(variable))
            variable.assign(value.transpose(0, 1, 3, 2) if is_depthwise(variable) else value)
        assert not values
        if settings["name"] == "sgd":
            optimizer = keras.optimizers.SGD(settings["learning_rate"], settings["momentum"])
        else:
            optimizer = keras.optimizers.Adadelta(settings["learning_rate"], rho=0.95)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)
        model.compile(optimizer, loss, run_eagerly=True)
    for batch in batches:
        with computing_in(dtype):
            model.reset_metrics()
            objective = float(model.train_on_batch(batch["image"].astype(dtype), batch["label"]))
        tensors = {layer_and_tensor(v): as_mine(v, v) for v in model.weights}
        moments = (
            {"velocity": optimizer.momentums}
            if settings["name"] == "sgd"
            else {"e_g": optimizer._accumulated_grads, "e_x": optimizer._accumulated_delta_vars}
        )
        for moment, variables in moments.items():
            for variable, value in zip(model.trainable_variables, variables, strict=True):
                tensors[f"{moment} {layer_and_tensor(variable)}"] = as_mine(variable, value)
        yield objective, tensors


def my_steps(case, dtype, start, batches):
    """The same of this project."""
    settings = case.optimizer
    with computing_in(dtype):
        model = MobileNet(0.25, case.head, dropout=0.0, frozen_blocks=case.frozen_blocks, dtype=jnp.dtype(dtype))
        config = get_config()
        config.optimizer.update(settings)
        optimizer = make_optimizer(config, make_schedule(config, 10), model)
        step = make_train_step(model, optimizer, jax.random.key(0), Objective(case.regularizer))
        params, batch_stats = jax.tree.map(lambda x: jnp.array(x, dtype), (start["params"], start["batch_stats"]))
        state = create_train_state(params, batch_stats, optimizer)
    for batch in batches:
        with computing_in(dtype):
            state, _, objective = step(state, {**batch, "image": batch["image"].astype(dtype)}, jnp.ones((), dtype))
        tensors = flatten(state.params) | flatten(state.batch_stats)
        # Keras's velocity holds the learning rate, m v - lr g; Optax's does not, m v + g.
        moments = (
            {"velocity": ("trace", -settings["learning_rate"])}
            if settings["name"] == "sgd"
            else {"e_g": ("e_g", 1), "e_x": ("e_x", 1)}
        )
        for moment, (name, factor) in moments.items():
            trained = {k: v for k, v in optax.tree.get(state.opt_state, name).items() if isinstance(v, dict)}
            tensors |= {f"{moment} {k}": factor * v for k, v in flatten(trained).items()}
        yield float(objective), tensors


def make_batches(real_photographs):
    """Three batches of dermoscopic images, scaled as the weights were trained; the labels say nothing of them."""
    images = [Image.open(path).resize((SIZE, SIZE)) for path in real_photographs[: STEPS * BATCH]]
    pixels = np.stack(images).astype(np.float32) / 127.5 - 1
    labels = np.arange(STEPS * BATCH, dtype=np.int32) % 7
    return [{"image": pixels[i::STEPS], "label": labels[i::STEPS]} for i in range(STEPS)]


@pytest.fixture(scope="module")
def batches(real_photographs):
    return make_batches(real_photographs)


def cases(fast):
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in CASES]


def assert_near(name, found, expected, tolerance):
    """Tensor by tensor, relative to its norm."""
    case = CASES[name]
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        if key.endswith(("dense_1.bias", "dense_2.bias")) and case.head == "article_bn" and not case.activity:
            # Batch normalization takes a bias away again: its gradient is 0, and what there is of it is rounding.
            assert max(np.linalg.norm(tensor), np.linalg.norm(expected[key])) < 1e-8, key
        else:
            assert relative_error(tensor, expected[key]) < tolerance, key


@pytest.mark.parametrize("name", cases(FAST))
def test_three_steps_are_kerass(name, weights, batches):
    """Objective, parameters, statistics and moments. In float64, where rounding does not hide what is computed.

    Measured: at most 4e-6, and 3e-5 in the moments of Adadelta with the regularized head (logits and penalty are
    float32 even here).
    """
    start = starting_tensors(weights[0.25], CASES[name])
    sides = (steps(CASES[name], "float64", start, batches) for steps in (my_steps, kerass_steps))
    for (objective, found), (theirs, expected) in zip(*sides, strict=True):
        assert objective == pytest.approx(theirs, rel=1e-6)
        assert_near(name, found, expected, 1e-4)


@pytest.mark.parametrize("name", cases(FAST_IN_FLOAT32))
def test_float32_steps_are_kerass_as_far_as_rounding_lets_them(name, weights, batches):
    """All within 1e-4 over three steps with a frozen backbone, where 2e-5 was measured.

    Where the backbone is trained, the objective, the parameters and the statistics are after one step, but the moments
    are not. It is no matter of whose arithmetic: a rounding of 1e-7 moves some of a million activations over an edge of
    ReLU6, where the gradient jumps. Weights changed by a relative 1e-6 move the moments by 5e-2 in float64; Keras in
    float32 is up to 4e-3 from Keras in float64 after one step; and each step multiplies the difference by ten or more.
    """
    case = CASES[name]
    start = starting_tensors(weights[0.25], case)
    sides = (steps(case, "float32", start, batches) for steps in (my_steps, kerass_steps))
    for i, ((objective, found), (theirs, expected)) in enumerate(zip(*sides, strict=True)):
        if case.frozen_blocks == 13:
            assert objective == pytest.approx(theirs, rel=1e-5)
            assert_near(name, found, expected, 1e-4)
            continue
        assert objective == pytest.approx(theirs, rel=1e-4 if i == 0 else 1e-2)
        if i == 0:
            moments = {key for key in found if " " in key}
            tolerance = 1e-3 if name == "bn l2 adadelta" else 1e-4  # a tensor of Keras's own is 9e-5 from its float64
            for keys, bound in ((found.keys() - moments, tolerance), (moments, 5e-2)):
                assert_near(name, {k: found[k] for k in keys}, {k: expected[k] for k in keys}, bound)
