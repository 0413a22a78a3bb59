import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilenet_jax.model.folding import fold_batch_norm
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.weights.load import load_pretrained
from tests.helpers.heads import HEADS


def _randomize(variables):
    """Returns variables whose batch normalization is far from the identity."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x * rng.uniform(0.5, 2, x.shape).astype(x.dtype) + 0.1, variables)


@pytest.mark.parametrize("head", HEADS)
def test_the_folded_model_computes_the_same(head):
    model, images = MobileNet(0.25, head), jax.random.uniform(jax.random.key(0), (2, 33, 64, 3))
    variables = _randomize(jax.jit(lambda: model.init(jax.random.key(1), images, train=False))())
    folded, folded_variables = fold_batch_norm(model, variables)
    assert set(folded_variables) == {"params"}
    expected = jax.jit(model.apply, static_argnames="train")(variables, images, train=False)
    outputs = jax.jit(folded.apply, static_argnames="train")(folded_variables, images, train=False)
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-5 * float(jnp.abs(expected).max()))


def test_pretrained_features_are_the_same(weights, real_images):
    model, variables = load_pretrained(weights[0.25])
    images = np.stack([np.asarray(image.resize((96, 96)), np.float32) / 127.5 - 1 for image in real_images])
    folded, folded_variables = fold_batch_norm(model, variables)
    expected = jax.jit(model.apply, static_argnames="train")(variables, images, train=False)
    outputs = jax.jit(folded.apply, static_argnames="train")(folded_variables, images, train=False)
    np.testing.assert_allclose(outputs, expected, atol=1e-3)  # features up to 6


def test_a_folded_model_cannot_be_trained():
    with pytest.raises(ValueError, match="batch normalization is folded"):
        MobileNet(0.25, "small", folded=True).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=True)
