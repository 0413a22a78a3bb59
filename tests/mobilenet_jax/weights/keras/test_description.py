import json

import pytest

from mobilenet_jax.weights.keras.description import check_description
from tests.helpers.hostile.descriptions import describe_model


@pytest.mark.parametrize("activation", [{}, {"activation": None}, {"activation": "linear"}])
def test_a_layer_without_an_activation_is_linear(activation):
    convolution = {"class_name": "Conv2D", **activation}
    dense = {"class_name": "Dense", **activation}
    shape = {"class_name": "InputLayer", "batch_shape": [None, 64, 96, 3]}
    size = check_description(describe_model(shape, convolution, {"class_name": "Flatten"}, dense), head=True)
    assert json.loads(size) == [64, 96]
