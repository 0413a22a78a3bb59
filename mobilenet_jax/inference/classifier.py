"""A trained model put to use: images to probabilities, on all devices. No TensorFlow is imported here."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mobilenet_jax import sharding
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.weights import Weights

DEFAULT_SIZE = (224, 224)  # for weights that do not say, which are Keras's
MAX_VIEWS = 8  # the ways to turn a square over


class Classifier:
    """Weights with a classifier, ready to be asked.

    Attributes:
        model: of the weights.
        variables: the weights, on every device.
        size: height and width of the images it takes.
        class_names: in the order of the probabilities; numbers where the weights have no names.
    """

    def __init__(self, weights: Weights, views: int = 1, correct: Callable[[np.ndarray], np.ndarray] | None = None):
        """Takes weights.

        Args:
            weights: of a whole model.
            views: how many views of each image the probabilities are the mean of: the image itself, then turned and
                mirrored, up to 8; on images that are not square, up to 4.
            correct: what is done to their probabilities, see `calibration`.

        Raises:
            WeightsError: the weights hold no classifier, or none for as many views.
        """
        found, metadata = weights.architecture, weights.metadata
        if found.head is None:
            raise WeightsError(f"{metadata.source} holds no classifier, only features")
        side = 32 * math.isqrt(found.positions)
        self.size = metadata.image_size or ((side, side) if found.one_size else DEFAULT_SIZE)
        if found.one_size and -(-self.size[0] // 32) * -(-self.size[1] // 32) != found.positions:
            raise WeightsError(
                f"{metadata.source} does not say for which size of images its head is, and it is no square"
            )
        most = MAX_VIEWS if self.size[0] == self.size[1] else MAX_VIEWS // 2
        if not 1 <= views <= most:
            raise WeightsError(f"images of {self.size[0]} x {self.size[1]} have 1 to {most} views, not {views}")
        self.class_names = metadata.classes or tuple(map(str, range(found.num_classes)))
        self.model: Any
        self._correct = correct or (lambda probabilities: probabilities)
        self.model, self._scaling, self._views = found.model(), metadata.input_scaling, views
        self._mesh = sharding.make_data_mesh()
        self.variables = sharding.replicate(self._mesh, weights.variables)
        self._compiled = jax.jit(self._mean_probabilities)

    def probabilities(self, pixels: np.ndarray, batch_size: int) -> np.ndarray:
        """float64 `[n, classes]` of images.

        Args:
            pixels: uint8 `[n, height, width, 3]`.
            batch_size: n or more; images of nothing fill up to it, so that all batches are compiled once.
        """
        n, whole = len(pixels), self.whole(batch_size)
        padded = np.pad(pixels, [(0, whole - n), (0, 0), (0, 0), (0, 0)]) if n < whole else pixels
        batch = sharding.shard_batch(self._mesh, {"pixels": padded})
        found = np.asarray(sharding.gather_to_host(self._compiled(self.variables, batch["pixels"])), np.float64)[:n]
        return self._correct(found / found.sum(1, keepdims=True))

    def whole(self, batch_size: int) -> int:
        """The batch size, or the next that all devices can share."""
        return -(-batch_size // self._mesh.size) * self._mesh.size

    def inputs(self, pixels: jax.Array) -> jax.Array:
        """Pixels from 0 to 255 as the model takes them."""
        low, high = self._scaling
        return low + (high - low) / 255 * pixels.astype(jnp.float32)

    def _mean_probabilities(self, variables: Any, pixels: jax.Array) -> jax.Array:
        images = self.inputs(pixels)
        each = [jax.nn.softmax(self.model.apply(variables, view(images, i), train=False)) for i in range(self._views)]
        return sum(each[1:], each[0]) / self._views


def view(images: jax.Array, number: int) -> jax.Array:
    """One of the eight ways to lay a square: mirrored left to right, top to bottom, and turned about its diagonal.

    Args:
        images: `[n, height, width, 3]`.
        number: 0, the images as they are, to 7; from 4 on height and width change places.
    """
    if number & 1:
        images = images[:, :, ::-1]
    if number & 2:
        images = images[:, ::-1]
    return images.swapaxes(1, 2) if number & 4 else images
