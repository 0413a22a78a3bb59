"""Keras's own MobileNet with random kernels and random statistics, so that a tensor in a wrong place is noticed."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2
import keras
import numpy as np
from PIL import Image

HEADS = {None: (), "small": (7,), "article": (1024, 1024, 7), "article_bn": (1024, 1024, 7)}


def make_random_mobilenet(alpha, head=None, size=(64, 64), seed=0, framework=keras):
    """Builds Keras's MobileNet with one of this project's heads, without dropout, or `"imagenet"`, Keras's own top."""
    options = {"include_top": True, "classifier_activation": None} if head == "imagenet" else {"include_top": False}
    model = framework.applications.MobileNet(weights=None, alpha=alpha, input_shape=(*size, 3), **options)
    if head in ("small", "article", "article_bn"):
        x = model.output
        for layer in make_head_layers(head, framework):
            x = layer(x)
        model = framework.Model(model.input, x)
    randomize(model, seed)
    return model


def make_head_layers(head, framework=keras):
    """Returns the layers of one of this project's heads."""
    layers = framework.layers
    *hidden, last = HEADS[head]
    head_layers = [layers.GlobalAveragePooling2D() if head == "small" else layers.Flatten()]
    for units in hidden:
        if head == "article_bn":
            head_layers += [layers.Dense(units), layers.BatchNormalization(), layers.Activation("relu")]
        else:
            head_layers.append(layers.Dense(units, activation="relu"))
    return [*head_layers, layers.Dense(last)]


def randomize(model, seed=0):
    """Sets weights of the magnitude of trained ones, so that activations neither die nor all reach the 6 of ReLU6."""
    rng = np.random.default_rng(seed)

    def sample(layer, weight):
        if "normalization" in type(layer).__name__.lower():
            name = weight.name.rpartition("/")[2].removesuffix(":0")
            low, high = {"gamma": (0.5, 1.5), "moving_variance": (0.5, 1.5)}.get(name, (-0.5, 0.5))
            return rng.uniform(low, high, weight.shape)
        fan_in = 9 if "depthwise" in type(layer).__name__.lower() else max(1, int(np.prod(weight.shape[:-1])))
        return rng.normal(0, np.sqrt(2 / fan_in), weight.shape)

    for layer in model.layers:
        if hasattr(layer, "layers"):  # a nested model
            randomize(layer, seed)
        else:
            layer.set_weights([sample(layer, weight).astype(np.float32) for weight in layer.weights])


def compute_relative_error(value, expected):
    """Returns the Euclidean norm of the difference, divided by that of the expected value."""
    return np.linalg.norm(np.asarray(value) - expected) / np.linalg.norm(expected)


def read_pixels(path, size):
    """Returns a JPEG as the network takes it: decoded by Pillow, at a fraction if it is large, and scaled down."""
    with Image.open(path) as image:
        image.draft("RGB", (4 * size, 4 * size))
        scaled = cv2.resize(np.asarray(image), (size, size), interpolation=cv2.INTER_AREA)
    return scaled.astype(np.float32) / 127.5 - 1
