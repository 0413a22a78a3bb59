import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilenet_jax.export.fine_tuning import _round_activations, _round_kernel, fine_tune
from mobilenet_jax.export.network import Network
from mobilenet_jax.model.preprocessing import scale_pixels
from tests.helpers.sensitive_weights import make_images, make_sensitive_weights


def test_kernels_are_rounded_to_255_levels_per_channel_and_gradients_pass():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 5)) * jnp.array([1e-4, 1e-2, 1, 100, 0])
    scale = np.abs(kernel).max((0, 1, 2)) / 127
    rounded = _round_kernel(kernel)
    levels = np.asarray(rounded)[..., :4] / scale[:4]
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert np.abs(levels).max() <= 127.001
    assert (np.abs(np.asarray(rounded - kernel)) <= 0.5001 * scale).all()
    gradient = jax.grad(lambda kernel: (3 * _round_kernel(kernel)).sum())(kernel)
    np.testing.assert_array_equal(gradient, 3)


@pytest.mark.slow
def test_fine_tuning_reduces_the_loss_by_rounding():
    network = Network(make_sensitive_weights("small", (32, 32)))
    pixels = make_images(64, (32, 32))
    model, variables = network.fold()
    expected = network.compute_reference(pixels)

    @jax.jit
    def classify(params):
        from flax import linen as nn

        with nn.intercept_methods(_round_activations):
            rounded = jax.tree.map(_round_kernel, params)
            images = scale_pixels(pixels, network.input_scaling)
            return jax.nn.softmax(model.apply({"params": rounded}, images, train=False))

    before = np.abs(classify(variables["params"]) - expected).mean()
    tuned = fine_tune(network, variables["params"], pixels, steps=200)
    assert np.abs(classify(tuned) - expected).mean() < 0.7 * before
