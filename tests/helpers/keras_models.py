"""Keras's own MobileNet with tensors that hide nothing: random kernels, random statistics."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

HEADS = {None: (), "small": (7,), "article": (1024, 1024, 7), "article_bn": (1024, 1024, 7)}


def random_mobilenet(alpha, head=None, size=(64, 64), seed=0, framework=keras):
    """Keras's MobileNet with one of this project's heads, without the dropout; for `"imagenet"` Keras's own top."""
    model = (
        framework.applications.MobileNet(
            weights=None,
            include_top=head == "imagenet",
            alpha=alpha,
            input_shape=(*size, 3),
            classifier_activation=None,
        )
        if head == "imagenet"
        else framework.applications.MobileNet(weights=None, include_top=False, alpha=alpha, input_shape=(*size, 3))
    )
    if head in ("small", "article", "article_bn"):
        x = model.output
        for layer in head_layers(head, framework):
            x = layer(x)
        model = framework.Model(model.input, x)
    randomize(model, seed)
    return model


def head_layers(head, framework=keras):
    """The layers of one of this project's heads, for images of any size."""
    layers = framework.layers
    *hidden, last = HEADS[head]
    found = [layers.GlobalAveragePooling2D() if head == "small" else layers.Flatten()]
    for units in hidden:
        if head == "article_bn":
            found += [layers.Dense(units), layers.BatchNormalization(), layers.Activation("relu")]
        else:
            found.append(layers.Dense(units, activation="relu"))
    return [*found, layers.Dense(last)]


def randomize(model, seed=0):
    """Values of the size training leaves, so that activations neither die nor all reach the 6 of ReLU6."""
    rng = np.random.default_rng(seed)

    def draw(layer, weight):
        if "normalization" in type(layer).__name__.lower():
            name = weight.name.rpartition("/")[2].removesuffix(":0")
            low, high = {"gamma": (0.5, 1.5), "moving_variance": (0.5, 1.5)}.get(name, (-0.5, 0.5))
            return rng.uniform(low, high, weight.shape)
        fan_in = 9 if "depthwise" in type(layer).__name__.lower() else max(1, int(np.prod(weight.shape[:-1])))
        return rng.normal(0, np.sqrt(2 / fan_in), weight.shape)

    for layer in model.layers:
        if hasattr(layer, "layers"):  # a model in a model
            randomize(layer, seed)
        else:
            layer.set_weights([draw(layer, weight).astype(np.float32) for weight in layer.weights])


def relative_error(found, expected):
    """Of the Euclidean norm."""
    return np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)
