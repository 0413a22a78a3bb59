import jax.numpy as jnp
import numpy as np

from mobilenet_jax.export.bias_correction import correct_biases
from mobilenet_jax.export.network import Network
from tests.helpers.sensitive_weights import make_images, make_sensitive_weights


def round_coarsely(kernel):
    scale = np.abs(kernel).max((0, 1, 2), keepdims=True) / 31
    return np.round(kernel / scale) * scale


def test_corrected_biases_take_back_the_shift_by_rounded_kernels():
    network = Network(make_sensitive_weights(None, (64, 64)))
    pixels = make_images(32, (64, 64))
    original = network.fold()[1]["params"]
    kernels = {
        layer: round_coarsely(tensors["kernel"]) for layer, tensors in original.items() if not layer.endswith("_bn")
    }
    corrected = correct_biases(network, kernels, pixels[:16], round_activations=False)
    for layer, kernel in kernels.items():
        np.testing.assert_array_equal(corrected[layer]["kernel"], kernel)

    def extract(params):
        return network.capture_activations(params, jnp.asarray(pixels[16:]))["conv_pw_13"]

    def measure_shift(params):
        return np.abs((extract(params) - extract(original)).mean((0, 1, 2))).mean()

    rounded = original | {layer: {"kernel": kernel} for layer, kernel in kernels.items()}
    assert measure_shift(corrected) < 0.5 * measure_shift(rounded)


def test_corrected_biases_take_back_the_shift_by_rounded_activations():
    network = Network(make_sensitive_weights(None, (64, 64)))
    pixels = make_images(16, (64, 64))
    original = network.fold()[1]["params"]
    kernels = {layer: tensors["kernel"] for layer, tensors in original.items() if not layer.endswith("_bn")}

    def extract(params, *, round_inputs):
        images = jnp.asarray(pixels)
        return network.capture_activations(params, images, round_inputs=round_inputs)["conv_pw_13"].mean((0, 1, 2))

    expected, shifted = (extract(original, round_inputs=value) for value in (False, True))
    corrected = correct_biases(network, kernels, pixels, round_activations=True)
    after = extract(corrected, round_inputs=True)
    assert np.abs(after - expected).mean() < 0.5 * np.abs(shifted - expected).mean()
