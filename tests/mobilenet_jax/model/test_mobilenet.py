import subprocess
import sys

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from mobilenet_jax.model.mobilenet import MobileNet


def make_variables(model, images):
    """Returns random variables of a model. Its own initialization takes as long to compile as the model itself."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    rng = np.random.default_rng(0)

    def sample(path, x):
        if path[-1].key in ("var", "scale"):
            return np.ones(x.shape, x.dtype)
        scale = np.prod(x.shape[:-1]) ** -0.5 if x.ndim > 1 else 0.1
        return rng.normal(0, scale, x.shape).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(sample, shapes)


@pytest.mark.parametrize(
    ("head", "size"),
    [
        *(("article", (33, 47)), ("article_bn", (32, 32)), ("small", (33, 47)), ("imagenet", (32, 32))),
        *(pytest.param(head, (32, 32), marks=pytest.mark.slow) for head in ("article", "small")),
        *(pytest.param(head, (33, 47), marks=pytest.mark.slow) for head in ("article_bn", "imagenet")),
    ],
)
def test_heads_return_logits(head, size):
    model = MobileNet(0.25, head, num_classes=5)
    images = jax.random.uniform(jax.random.key(0), (2, *size, 3))
    variables = make_variables(model, images)
    logits = jax.jit(lambda v: model.apply(v, images, train=False))(variables)
    assert logits.shape == (2, 5)
    assert float(jnp.abs(logits.sum(-1) - 1).min()) > 1e-4, "probabilities, not logits"


def test_layers_have_keras_names_on_a_single_level():
    reference = keras.applications.MobileNet(weights=None, alpha=0.25, input_shape=(32, 32, 3))
    names = {layer.name for layer in reference.layers if layer.weights}
    model = MobileNet(0.25, "imagenet", num_classes=1000)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert set(variables) == {"params", "batch_stats"}
    assert set(variables["params"]) == names
    assert set(variables["batch_stats"]) == {name for name in names if name.endswith("_bn")}


@pytest.mark.parametrize(("head", "batch_norm"), [("article", False), ("article_bn", True)])
def test_the_outputs_of_the_articles_dense_layers_are_sown(head, batch_norm):
    model = MobileNet(0.25, head)
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    variables = make_variables(model, images)
    _, sown = jax.jit(lambda v: model.apply(v, images, train=False, mutable=["activities"]))(variables)
    assert set(sown["activities"]) == {"dense_1_output", "dense_2_output"}
    for [outputs] in sown["activities"].values():
        assert outputs.shape == (2, 1024)
        assert bool((outputs < 0).any()) == batch_norm, "before the ReLU with batch normalization, after it without"


def test_the_articles_head_has_its_sizes():
    model = MobileNet(1.0, "article")
    images = jnp.zeros((1, 224, 224, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))["params"]
    shapes = {name: params[name]["kernel"].shape for name in ("dense_1", "dense_2", "predictions")}
    assert shapes == {"dense_1": (50176, 1024), "dense_2": (1024, 1024), "predictions": (1024, 7)}


def test_dropout_is_active_only_in_training():
    model = MobileNet(0.25, "small", dropout=0.5)
    images = jax.random.uniform(jax.random.key(0), (4, 32, 32, 3))
    variables = make_variables(model, images)

    @jax.jit
    def apply_in_training(seed):
        return model.apply(
            variables, images, train=True, rngs={"dropout": jax.random.key(seed)}, mutable=["batch_stats"]
        )

    evaluate = jax.jit(lambda: model.apply(variables, images, train=False))
    assert not np.allclose(apply_in_training(0)[0], apply_in_training(1)[0])
    np.testing.assert_array_equal(evaluate(), evaluate())
    updated = apply_in_training(0)[1]["batch_stats"]
    differs = jax.tree.map(lambda a, b: bool((a != b).any()), variables["batch_stats"], updated)
    assert all(jax.tree.leaves(differs)), "every batch norm updates its statistics"


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (MobileNet(0.3), (1, 32, 32, 3), "0.3"),
        (MobileNet(head="big"), (1, 32, 32, 3), "'big'"),
        (MobileNet(batch_norm="freeze"), (1, 32, 32, 3), "batch_norm is 'freeze': expected one of"),
        (MobileNet(frozen_blocks=14), (1, 32, 32, 3), "frozen_blocks is 14"),
        (MobileNet(), (1, 31, 32, 3), "31"),
        (MobileNet(), (1, 32, 32, 1), "1"),
    ],
)
def test_wrong_arguments_are_named(model, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape), train=False))


def test_the_model_and_the_steps_need_no_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None\n"
        "import mobilenet_jax.cli.main, mobilenet_jax.model.summary, mobilenet_jax.training.step\n"
        "import mobilenet_jax.training.checkpoints, mobilenet_jax.training.losses\n"
        "import mobilenet_jax.sharding, mobilenet_jax.weights.load, mobilenet_jax.reporting.report\n"
        "import mobilenet_jax.inference.predict_files\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
