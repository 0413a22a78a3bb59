from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from mobilenet_jax.export.network import Network
from mobilenet_jax.export.rounding import round_kernels, round_matrix
from tests.helpers.sensitive_weights import make_images, make_sensitive_weights


def round_to_nearest(kernel, number_type="int8"):
    if number_type == "float16":
        return np.float64(np.float16(kernel))
    scale = np.abs(kernel).max(tuple(range(kernel.ndim - 1)), keepdims=True) / 127
    return np.round(kernel / scale) * scale


@pytest.fixture
def correlated():
    """Returns weights `[inputs, outputs]`, and inputs `[n, inputs]` of which most are nearly sums of a few signals."""
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(1000, 4)) @ rng.normal(size=(4, 32))
    return rng.normal(size=(32, 8)), signals + 0.1 * rng.normal(size=(1000, 32))


@pytest.mark.parametrize("number_type", ["int8", "float16"])
def test_outputs_of_correlated_inputs_change_less_than_with_rounding_to_nearest(correlated, number_type):
    weights, inputs = correlated
    rounded, nearest = round_matrix(weights, inputs.T @ inputs, number_type), round_to_nearest(weights, number_type)
    errors = [np.square(inputs @ (kernel - weights)).mean() for kernel in (rounded, nearest)]
    assert errors[0] < 0.5 * errors[1]


def test_weights_are_on_the_levels_of_their_column(correlated):
    weights, inputs = correlated
    levels = round_matrix(weights, inputs.T @ inputs, "int8") / (np.abs(weights).max(0) / 127)
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-9)
    assert np.abs(levels).max() <= 127 + 1e-9
    halves = round_matrix(weights, inputs.T @ inputs, "float16")
    np.testing.assert_array_equal(halves, np.float16(halves))


def test_independent_inputs_are_rounded_to_nearest(correlated):
    weights, _ = correlated
    for number_type in ("int8", "float16"):
        nearest = round_to_nearest(weights, number_type)
        np.testing.assert_allclose(round_matrix(weights, np.eye(32), number_type), nearest, atol=1e-12)


def test_inputs_that_are_always_zero_do_not_matter(correlated):
    weights, inputs = correlated
    inputs[:, ::2] = 0
    assert np.isfinite(round_matrix(weights, inputs.T @ inputs, "int8")).all()
    np.testing.assert_allclose(round_matrix(weights, np.zeros((32, 32)), "int8"), round_to_nearest(weights), atol=1e-12)
    assert not round_matrix(np.zeros((32, 8)), np.eye(32), "int8").any()


@pytest.mark.parametrize("padding", ["keras", "symmetric"])
def test_rounded_kernels_change_each_layer_less_than_rounding_to_nearest(padding):
    """Each layer alone is rounded, so that its error is that of its own kernel."""
    network = Network(make_sensitive_weights("small", (64, 64), padding=padding))
    pixels = make_images(16, (64, 64))
    params = network.fold()[1]["params"]
    kernels = round_kernels(network, pixels, "int8")
    assert list(kernels) == [layer for layer in params if f"{layer}_bn" in params]
    expected = network.capture_activations(params, jnp.asarray(pixels))

    def measure_error(layer, kernel):
        changed = replace(network, params=params | {layer: {"kernel": kernel}})
        return np.square(
            changed.capture_activations(changed.params, jnp.asarray(pixels))[layer] - expected[layer]
        ).mean()

    for layer in ("conv1", "conv_dw_1", "conv_dw_2", "conv_pw_2"):
        nearest = round_to_nearest(np.asarray(params[layer]["kernel"]))
        assert measure_error(layer, kernels[layer]) < 0.8 * measure_error(layer, nearest), layer
