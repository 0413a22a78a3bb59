import json

import pytest

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import BLOCKS
from mobilenet_jax.weights.keras.description import check_description
from tests.helpers.hostile.descriptions import describe_model


@pytest.mark.parametrize(("pads", "pads_stem", "size"), [(False, False, 224), (True, True, 224), (True, False, 100)])
def test_the_paddings_of_keras_are_accepted(pads, pads_stem, size):
    """Its first MobileNet has no layers ZeroPadding2D, and ReLU6 as an activation; the current one pads no stem."""
    layers = [{"class_name": "InputLayer", "batch_shape": [None, size, size, 3]}]
    for _, stride in ((0, 2), *BLOCKS):
        convolution = {"class_name": "DepthwiseConv2D" if len(layers) > 1 else "Conv2D", "strides": [stride, stride]}
        if stride == 2 and (pads if len(layers) > 1 else pads_stem):
            layers += [
                {"class_name": "ZeroPadding2D", "padding": [[0, 1], [0, 1]]},
                {**convolution, "padding": "valid"},
            ]
        else:
            layers.append({**convolution, "padding": "same"})
        relu6 = (
            {"class_name": "ReLU", "max_value": 6.0} if pads else {"class_name": "Activation", "activation": "relu6"}
        )
        layers += [{"class_name": "BatchNormalization"}, relu6]
    pooled = [{"class_name": "GlobalAveragePooling2D"}, {"class_name": "Activation", "activation": "relu"}]
    description = describe_model(*layers, *pooled, {"class_name": "Dense"})
    assert json.loads(check_description(description, head=True)) == [size, size]


@pytest.mark.parametrize("activation", [{}, {"activation": None}, {"activation": "linear"}])
def test_a_layer_without_an_activation_is_linear(activation):
    convolution = {"class_name": "Conv2D", **activation}
    dense = {"class_name": "Dense", **activation}
    shape = {"class_name": "InputLayer", "batch_shape": [None, 64, 96, 3]}
    size = check_description(describe_model(shape, convolution, {"class_name": "Flatten"}, dense), head=True)
    assert json.loads(size) == [64, 96]


@pytest.mark.parametrize("sides", [["64", "64"], [64, [96]], [64, 64.5]])
def test_an_image_size_that_is_no_integer_is_an_error(sides):
    shape = {"class_name": "InputLayer", "batch_shape": [None, *sides, 3]}
    with pytest.raises(WeightsError, match="the description of its model is damaged"):
        check_description(describe_model(shape, {"class_name": "Conv2D"}), head=False)
