from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilenet_jax.export.equalization import equalize_channels
from mobilenet_jax.export.network import Network
from tests.helpers.sensitive_weights import make_images, make_sensitive_weights

STEP = 6 / 255


def scale_channels(params, layer, reader, factors):
    """Scales the output channels of a layer; a depthwise convolution reads them."""
    params[layer] = {"kernel": params[layer]["kernel"] * factors}
    params[f"{layer}_bn"] = {"bias": params[f"{layer}_bn"]["bias"] * factors}
    params[reader] = {"kernel": params[reader]["kernel"] / factors}


@pytest.fixture
def uneven():
    """Returns a network with channels of `conv1` that use a small part of the range of ReLU6, and images."""
    network = Network(make_sensitive_weights("small", (64, 64)))
    params = network.fold()[1]["params"]
    scale_channels(params, "conv1", "conv_dw_1", np.float32([1, 0.5, 0.1, 0.02] * 2))
    return replace(network, params=params), make_images(16, (64, 64))


def test_scaled_channels_are_rounded_with_a_smaller_error(uneven):
    network, pixels = uneven
    images = jnp.asarray(pixels)
    equalized = equalize_channels(network, pixels)
    factors = equalized["conv1_bn"]["bias"] / network.params["conv1_bn"]["bias"]
    before = np.clip(network.capture_activations(network.params, images)["conv1"], 0, 6)
    after = np.clip(network.capture_activations(equalized, images)["conv1"], 0, 6)

    def measure_error(values, factors):
        return np.sqrt(((np.round(values / STEP) * STEP / factors - before) ** 2).mean((0, 1, 2)))

    assert (factors >= 1).all()
    assert factors[3] > 10 * factors[0]
    assert (measure_error(after, factors) <= measure_error(before, 1) * 1.001).all()
    assert measure_error(after, factors)[3] < 0.1 * measure_error(before, 1)[3]


@pytest.mark.parametrize(
    "head", ["small", *(pytest.param(h, marks=pytest.mark.slow) for h in ("article", "imagenet", None))]
)
def test_an_equalized_network_computes_the_same_but_for_large_values(head):
    network = Network(make_sensitive_weights(head, (64, 64)), raw=True)
    pixels = make_images(16, (64, 64))
    images = network.to_input_range(jnp.asarray(pixels))
    equalized = replace(network, params=equalize_channels(network, pixels))
    is_scaled = (
        equalized.params["conv_pw_13_bn"]["bias"] != network.fold()[1]["params"]["conv_pw_13_bn"]["bias"]
    ).any()
    assert is_scaled == (head is not None)
    expected, computed = (np.asarray(jax.jit(n.apply)(images)) for n in (network, equalized))
    assert np.abs(computed - expected).max() < 0.1 * np.abs(expected).std()


def test_a_channel_that_uses_the_whole_range_or_none_of_it_keeps_its_scale(uneven):
    network, pixels = uneven
    params = network.params
    params["conv1_bn"]["bias"] = np.where(np.arange(8) < 4, np.float32(3), np.float32(-1000))
    params["conv1"]["kernel"] = np.broadcast_to(np.float32(0.11), (3, 3, 3, 8))  # sums of 27 values within +-3
    equalized = equalize_channels(network, pixels)
    np.testing.assert_array_equal(equalized["conv1"]["kernel"], params["conv1"]["kernel"])


@pytest.mark.parametrize(("weight", "largest"), [(905, 128 * 127), (20_000, 20_000), (10, 10 * 2**5.75)])
def test_a_weight_is_scaled_at_most_to_the_largest_that_runtimes_accept(uneven, weight, largest):
    """The channel has no input other than 0, so that its value is its bias, which a factor of 2**5.75 represents."""
    network, pixels = uneven
    params = network.params
    params["conv1_bn"]["bias"] = np.where(np.arange(8) == 0, np.float32(-1000), params["conv1_bn"]["bias"])
    params["conv_dw_1"]["kernel"] = params["conv_dw_1"]["kernel"].copy()
    params["conv_dw_1"]["kernel"][..., 0] = weight
    params["conv_dw_1_bn"]["bias"] = np.where(
        np.arange(8) == 0, np.float32(7 * STEP / 2**5.75), params["conv_dw_1_bn"]["bias"]
    )
    kernel = equalize_channels(network, pixels)["conv_dw_1"]["kernel"][..., 0]
    np.testing.assert_allclose(kernel, largest, rtol=1e-3)
