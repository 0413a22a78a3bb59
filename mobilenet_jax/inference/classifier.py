"""A trained model compiled for inference: images to probabilities, on all devices. Imports no TensorFlow."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from input_pipeline.preprocessing import InputScaling
from mobilenet_jax import sharding
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.inference.views import apply_view, count_views
from mobilenet_jax.model.folding import fold_batch_norm
from mobilenet_jax.model.inference import apply_in_parts
from mobilenet_jax.model.mobilenet import compute_feature_size
from mobilenet_jax.model.preprocessing import scale_pixels
from mobilenet_jax.weights.layout import KERAS_SIZE
from mobilenet_jax.weights.metadata import distinguish_names
from mobilenet_jax.weights.weights import Weights

_STRIDE = 32  # input pixels per position of the last feature map


class Classifier:
    """A trained model compiled for inference.

    Attributes:
        model: the network, with batch normalization folded into the kernels.
        variables: its weights, replicated on every device.
        image_size: `(height, width)` of its input images.
        preprocessing: the preprocessing of decoded images.
        class_names: the class names in the order of the probabilities, see `distinguish_names`; indices where the
            weights record no names.
    """

    def __init__(self, weights: Weights, views: int = 1, correct: Callable[[np.ndarray], np.ndarray] | None = None):
        """Puts the weights on the devices.

        Args:
            weights: the weights of a model with a classifier.
            views: number of views of each image whose probabilities are averaged, see `views.apply_view`: 1 to 8 for
                square images, else 1 to 4.
            correct: function applied to the averaged probabilities, such as `Calibration.correct`.

        Raises:
            WeightsError: the weights have no classifier, or one with a single output, do not determine the image size,
                or allow fewer views.
        """
        architecture, metadata = weights.architecture, weights.metadata
        if architecture.head is None:
            raise WeightsError(f"{metadata.source} holds no classifier, only features")
        weights.check_outputs()
        self.image_size = get_image_size(weights)
        max_views = count_views(self.image_size)
        if not 1 <= views <= max_views:
            raise WeightsError(
                f"images of {' x '.join(map(str, self.image_size))} have 1 to {max_views} views, not {views}"
            )
        self.class_names = distinguish_names(metadata.classes or tuple(map(str, range(architecture.num_classes))))
        self.model: Any
        self.model, variables = fold_batch_norm(architecture.build_model(), weights.variables)
        self.preprocessing = metadata.preprocessing
        self._input_scaling, self._views, self._source = metadata.input_scaling, views, metadata.source
        self._correct = correct or (lambda probabilities: probabilities)
        self._mesh = sharding.make_data_mesh()
        self.variables: Any = sharding.replicate(self._mesh, variables)

    def compute_probabilities(self, pixels: np.ndarray, batch_size: int) -> np.ndarray:
        """Returns the probabilities of the classes, float64 `[n, classes]`.

        Args:
            pixels: uint8 `[n, height, width, 3]`.
            batch_size: smaller batches are padded to it, rounded up as by `round_up_batch_size`, so that the model is
                compiled once. The rounded size is at least n.

        Raises:
            WeightsError: the network computes infinite values or NaN.
        """
        n, padded_size = len(pixels), self.round_up_batch_size(batch_size)
        padded = np.pad(pixels, [(0, padded_size - n), (0, 0), (0, 0), (0, 0)]) if n < padded_size else pixels
        batch = sharding.shard_batch(self._mesh, {"pixels": padded})
        outputs = _average_views(self.model, self._input_scaling, self._views, self.variables, batch["pixels"])
        probabilities = np.asarray(sharding.gather_to_host(outputs), np.float64)[:n]
        if not np.isfinite(probabilities).all():
            raise WeightsError(
                f"{self._source} computes probabilities that are NaN: its weights are damaged or too large"
            )
        return self._correct(probabilities / probabilities.sum(1, keepdims=True))

    def round_up_batch_size(self, batch_size: int) -> int:
        """Returns the smallest multiple of the number of devices that is at least `batch_size`."""
        return -(-batch_size // self._mesh.size) * self._mesh.size

    def scale_pixels(self, pixels: jax.Array) -> jax.Array:
        """Maps pixel values from 0 to 255 to the input range of the model, float32."""
        return scale_pixels(pixels, self._input_scaling)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))  # compiled once per process for models that are equal
def _average_views(model: Any, input_scaling: InputScaling, views: int, variables: Any, pixels: jax.Array) -> jax.Array:
    def classify(pixels: jax.Array) -> jax.Array:
        images = scale_pixels(pixels, input_scaling)
        first, *others = [
            jax.nn.softmax(model.apply(variables, apply_view(images, i), train=False)) for i in range(views)
        ]
        return sum(others, first) / views

    return apply_in_parts(classify, pixels, model)


def get_image_size(weights: Weights) -> tuple[int, int]:
    """Returns `(height, width)` as recorded with the weights, else as implied by the head, else Keras's default.

    Raises:
        WeightsError: the head fits images of one size only, which is not the recorded one, or not recorded and not a
            square; or the features have one position, as after pooling, and no size is recorded.
    """
    architecture, metadata = weights.architecture, weights.metadata
    if not architecture.has_fixed_size:
        return metadata.image_size or KERAS_SIZE
    if architecture.positions == 1 and not metadata.image_size:
        raise WeightsError(
            f"{metadata.source}: no image size is recorded, and its first dense layer fits pooled features as well as "
            f"those of images of {_STRIDE} x {_STRIDE} pixels: specify --image-size={_STRIDE}, or record it in the "
            "metadata"
        )
    side = _STRIDE * math.isqrt(architecture.positions)
    height, width = metadata.image_size or (side, side)
    if math.prod(compute_feature_size(architecture.padding, (height, width))) == architecture.positions:
        return height, width
    problem = (
        f"not for the recorded image size, {height} x {width}"
        if metadata.image_size
        else "which do not form a square, and no image size is recorded"
    )
    raise WeightsError(f"{metadata.source}: its head is made for {architecture.positions} positions, {problem}")
