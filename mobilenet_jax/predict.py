"""Photographs to classes, with any weights that hold a classifier. No TensorFlow is imported here."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mobilenet_jax.pretrained import Weights, WeightsError

DEFAULT_SIZE = (224, 224)  # for weights that do not say, which are Keras's


class ImageError(ValueError):
    """An image cannot be read. The message names it."""


class Guess(NamedTuple):
    """A class: its index, its name if the weights say it (else empty), and its probability."""

    class_index: int
    name: str
    probability: float


def read_image(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """A photograph as float32 `[height, width, 3]` in [0, 1], whole, its sides brought to that size.

    Made smaller, a pixel is the mean of the area it covers; made larger, it is interpolated: as in training.

    Raises:
        ImageError: it is no image, or a damaged one.
    """
    try:
        with Image.open(path) as image:
            shrinks = image.height >= size[0] and image.width >= size[1]
            method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
            return np.asarray(image.convert("RGB").resize(size[::-1], method), np.float32) / 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot read image {path} ({reason})") from error


def make_classifier(weights: Weights) -> Callable[[str | Path], list[Guess]]:
    """A function from a photograph's path to every class, the most likely first.

    Raises:
        WeightsError: the weights hold no classifier.
    """
    found, metadata = weights.architecture, weights.metadata
    if found.head is None:
        raise WeightsError(f"{metadata.source} holds no classifier, only features")
    side = 32 * math.isqrt(found.positions)
    size = metadata.image_size or ((side, side) if found.one_size else DEFAULT_SIZE)
    if found.one_size and -(-size[0] // 32) * -(-size[1] // 32) != found.positions:
        raise WeightsError(f"{metadata.source} does not say for which size of images its head is, and it is no square")
    low, high = metadata.input_scaling
    names = metadata.classes or ("",) * found.num_classes
    model, variables = found.model(), weights.variables

    @jax.jit
    def probabilities(image: jax.Array) -> jax.Array:
        return jax.nn.softmax(model.apply(variables, low + (high - low) * image[None], train=False)[0])

    def classify(path: str | Path) -> list[Guess]:
        values = np.asarray(probabilities(jnp.asarray(read_image(path, size))))
        return [Guess(int(i), names[i], float(values[i])) for i in np.argsort(-values, kind="stable")]

    return classify
