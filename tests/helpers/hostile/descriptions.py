"""Keras files that describe a model that is not this project's."""

import json

import numpy as np

from tests.helpers.hostile.registry import Cases

CASES = Cases()


def describe_model(*layers):
    """Returns the JSON description of a model. Each layer is a dict of its `class_name` and its configuration."""
    layers = [{"class_name": layer["class_name"], "config": {"name": "a", **layer}} for layer in layers]
    return json.dumps({"class_name": "Functional", "config": {"layers": layers}})


@CASES.add_keras_2("channels first")
def a_model_that_works_on_channels_first(file):
    file.attrs["model_config"] = describe_model({"class_name": "Conv2D", "data_format": "channels_first"})


@CASES.add_keras_2("the description of its model is damaged")
def an_endlessly_nested_description(file):
    file.attrs["model_config"] = np.bytes_(b'{"config":' * 5000)


_DENSE, _NORM = {"class_name": "Dense"}, {"class_name": "BatchNormalization"}
_RELU, _TANH = ({"class_name": "Activation", "activation": name} for name in ("relu", "tanh"))
_RELU_6, _UNLIMITED_RELU = ({"class_name": "ReLU", "max_value": limit} for limit in (6, None))
_DENSE_NORM_RELU = (_DENSE, _NORM, _RELU)
_POOL, _CONV, _DEPTHWISE = ({"class_name": name} for name in ("GlobalAveragePooling2D", "Conv2D", "DepthwiseConv2D"))
_PADDING, _VALID = {"class_name": "ZeroPadding2D"}, {"padding": "valid"}
_ODD_INPUT = {"class_name": "InputLayer", "batch_shape": [None, 100, 100, 3]}

for name, message, *layers in (
    ("pixels_scaled_inside", "layers that MobileNet v1 does not have: Rescaling a", {"class_name": "Rescaling"}),
    ("another_pooling", "does not have: GlobalMaxPooling2D a", {"class_name": "GlobalMaxPooling2D"}),
    ("another_activation", "are followed by tanh; expected relu", {**_DENSE, "activation": "tanh"}),
    ("another_activation_in_the_backbone", "its layer a has the activation tanh, not ReLU6", _TANH),
    ("a_convolution_with_an_activation", "a has the activation tanh, not none", {**_TANH, "class_name": "Conv2D"}),
    ("another_relu", "ReLU a has the upper limit None, not 6", _UNLIMITED_RELU),
    ("another_relu_in_the_head", "ReLU a has the upper limit 6, not None", _DENSE, _RELU_6, _DENSE),
    ("relu_without_a_limit", "its layer a has the activation relu, not ReLU6", _RELU),
    ("leaky_relu", "ReLU a has a negative slope or a threshold", {**_RELU_6, "negative_slope": 0.2}),
    ("another_stride", "a has the strides [1, 1], not [2, 2]", {**_CONV, "strides": [1, 1]}),
    ("a_second_stride", "a has the strides 2, not [1, 1]", _CONV, {**_CONV, "strides": 2}),
    ("dilation", "a has the dilation_rate [2, 2], not [1, 1]", {**_DEPTHWISE, "dilation_rate": [2, 2]}),
    ("no_padding", "a has the padding valid, not same", {**_DEPTHWISE, "padding": "valid"}),
    ("padding_at_the_top", "a has the padding [[1, 1], [1, 1]]", {**_PADDING, "padding": [[1, 1], [1, 1]]}),
    ("padding_in_another_place", "a follows zero padding", _PADDING, _DEPTHWISE),
    ("padding_before_pooling", "a follows zero padding", _PADDING, _POOL),
    ("padding_twice", "a follows zero padding", _PADDING, _PADDING),
    ("same_for_an_odd_size", "something else for images of [100, 100] pixels", _ODD_INPUT, _DEPTHWISE, _DEPTHWISE),
    ("zeros_for_an_odd_size", "something else for images of [100, 100]", _ODD_INPUT, _PADDING, {**_CONV, **_VALID}),
    ("no_relu", "its layer a is not followed by ReLU6", _CONV, _NORM, _CONV),
    ("no_last_relu", "its layer a is not followed by ReLU6", _CONV, _NORM, _POOL),
    ("softmax_in_the_backbone", "a has the activation softmax, not ReLU6", {"class_name": "Softmax"}, _CONV),
    ("pooling_before_two_layers", "global average pooling before several dense layers", _POOL, _DENSE, _RELU, _DENSE),
    ("pooling_after_a_layer", "do not read pooled or flattened features", _CONV, _DENSE, _POOL),
    ("no_pooling", "do not read pooled or flattened features", _CONV, _DENSE),
    (
        "softmax_before_a_layer",
        "a is a softmax before the dense layers",
        _CONV,
        _POOL,
        {"class_name": "Softmax"},
        _DENSE,
    ),
    ("another_epsilon", "the epsilon of its batch normalization is not 0.001", {**_NORM, "epsilon": 1e-5}),
    ("relu_before_norm", "followed by relu and batch normalization, nothing;", _DENSE, _RELU, _NORM, _DENSE),
    ("norm_without_relu", "followed by batch normalization, nothing;", _DENSE, _NORM, _DENSE),
    ("norm_last", "followed by batch normalization and relu, batch normalization;", *_DENSE_NORM_RELU, _DENSE, _NORM),
    ("one_norm", "followed by relu, batch normalization and relu, nothing;", _DENSE, _RELU, *_DENSE_NORM_RELU, _DENSE),
):

    def _describe(file, layers=layers):
        file.attrs["model_config"] = describe_model(*layers)

    _describe.__name__ = name
    CASES.add_keras_2(message)(_describe)
