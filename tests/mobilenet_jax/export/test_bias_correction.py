import jax
import numpy as np

from mobilenet_jax.export.bias_correction import correct_biases
from mobilenet_jax.export.network import Network
from mobilenet_jax.model.preprocessing import scale_pixels
from tests.helpers.sensitive_weights import make_images, make_sensitive_weights


def round_coarsely(kernel):
    scale = np.abs(kernel).max((0, 1, 2), keepdims=True) / 31
    return np.round(kernel / scale) * scale


def test_corrected_biases_take_back_the_shift_of_the_channel_means():
    network = Network(make_sensitive_weights(None, (64, 64)))
    model, variables = network.fold()
    pixels = make_images(32, (64, 64))
    corrected = correct_biases(network, round_coarsely, pixels[:16])
    original = variables["params"]
    for layer, tensors in original.items():
        if not layer.endswith("_bn"):
            np.testing.assert_array_equal(corrected[layer]["kernel"], tensors["kernel"])

    @jax.jit
    def extract(params):
        return model.apply({"params": params}, scale_pixels(pixels[16:], network.input_scaling), train=False)

    def measure_shift(params):
        rounded = {
            layer: tensors if layer.endswith("_bn") else {"kernel": round_coarsely(tensors["kernel"])}
            for layer, tensors in params.items()
        }
        return np.abs((extract(rounded) - extract(original)).mean((0, 1, 2))).mean()

    assert measure_shift(corrected) < 0.5 * measure_shift(original)
