"""Random weights whose outputs differ from image to image, as those of a trained network do."""

import functools
import math
import zlib

import cv2
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from input_pipeline.preprocessing import STRETCH
from mobilenet_jax.model.mobilenet import compute_feature_size
from mobilenet_jax.model.preprocessing import scale_pixels
from mobilenet_jax.weights.layout import HEAD_LAYERS, Architecture
from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.weights import Weights

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
SPREAD = 2.0  # standard deviation of a logit over images


def make_images(count, size):
    """Returns smooth random images, uint8 `[count, *size, 3]`; always the same ones."""
    rng = np.random.default_rng(0)
    grids = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return np.stack([cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC) for grid in grids])


@functools.cache
def make_sensitive_weights(
    head="small",
    size=(64, 64),
    *,
    alpha=0.25,
    classes=CLASSES,
    input_scaling=(-1.0, 1.0),
    preprocessing=STRETCH,
    **variant,
):
    """Returns weights with the statistics of `make_images`, and with a last layer that separates these images.

    They must not be changed.

    Args:
        head: see `MobileNet`.
        size: height and width of the images.
        alpha: the width multiplier.
        classes: names of the classes.
        input_scaling: see `Metadata`.
        preprocessing: see `Metadata`.
        variant: more attributes of `Architecture`.
    """
    feature_size = compute_feature_size(variant.get("padding", "keras"), size)
    positions = math.prod(feature_size) if head in ("article", "article_bn") else 1
    architecture = Architecture(alpha, head, len(classes) if head else 0, positions, **variant)
    model = architecture.build_model().clone(batch_norm_momentum=0.0, dropout=0.0)
    tensors = {name: _sample(name, shape) for name, shape in architecture.compute_shapes().items()}

    @jax.jit
    def run(tensors, images):
        images = scale_pixels(images, input_scaling)
        return model.apply(unflatten_dict(tensors, sep="."), images, train=True, mutable=["batch_stats"])

    outputs, statistics = run(tensors, make_images(16, size))
    tensors |= {name: np.asarray(value) for name, value in flatten_dict(dict(statistics), sep=".").items()}
    if head:
        last = HEAD_LAYERS[head][-1]
        factor = SPREAD / np.std(np.asarray(outputs), 0)
        tensors[f"params.{last}.kernel"] = tensors[f"params.{last}.kernel"] * factor
        tensors[f"params.{last}.bias"] = -np.mean(np.asarray(outputs), 0) * factor
    metadata = Metadata(
        size, input_scaling, tuple(classes) if head else None, "random weights", preprocessing=preprocessing
    )
    return Weights("memory", "", architecture, tensors, metadata)


def _sample(name, shape):
    """Returns a random kernel. Batch normalization has a bias with which few units are cut off by ReLU6."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("kernel"):
        return rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape).astype(np.float32)
    return np.full(shape, {"bias": 1.5 if "_bn" in name else 0.0}.get(name.split(".")[-1], 1.0), np.float32)
