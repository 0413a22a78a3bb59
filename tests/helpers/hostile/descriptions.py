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

for name, message, *layers in (
    ("pixels_scaled_inside", "layers that MobileNet v1 does not have: Rescaling a", {"class_name": "Rescaling"}),
    ("another_pooling", "does not have: GlobalMaxPooling2D a", {"class_name": "GlobalMaxPooling2D"}),
    ("another_activation", "are followed by tanh; expected relu", {**_DENSE, "activation": "tanh"}),
    ("another_activation_in_the_backbone", "its layer a has the activation tanh, not ReLU6", _TANH),
    ("a_convolution_with_an_activation", "a has the activation tanh, not none", {**_TANH, "class_name": "Conv2D"}),
    ("another_relu", "ReLU a has the upper limit None, not 6", _UNLIMITED_RELU),
    ("another_relu_in_the_head", "ReLU a has the upper limit 6, not None", _DENSE, _RELU_6, _DENSE),
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
