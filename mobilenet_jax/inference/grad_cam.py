"""Where a model looked: Grad-CAM (Selvaraju et al. 2017) of the last convolution, on the logit of a class."""

from collections.abc import Callable

import cv2
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from flax import linen as nn
from PIL import Image

from mobilenet_jax.inference.classifier import Classifier

_WIDTH = 448  # pixels


def make_grad_cam(classifier: Classifier) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """What raises the logit of a class, and where.

    A channel of the last convolution's output weighs what the mean of the logit's gradient by it is; the weighted sum
    of the channels is kept where it is positive. On the logit, not the probability, whose gradient vanishes where the
    model is sure.

    Args:
        classifier: with any head.

    Returns:
        A function of images, uint8 `[n, height, width, 3]`, and the class asked about for each, int `[n]`; to float32
        `[n, height / 32, width / 32]`, from 0 up, all 0 where nothing speaks for the class.
    """
    model, variables = classifier.model, classifier.variables
    backbone = model.clone(head=None)

    @jax.jit
    def cams(pixels: jax.Array, classes: jax.Array) -> jax.Array:
        images = classifier.inputs(pixels)

        def logit(shift: jax.Array) -> jax.Array:
            logits = model.apply({**variables, "perturbations": {"features": shift}}, images, train=False)
            return jnp.take_along_axis(logits, classes[:, None], 1).sum()

        features = backbone.apply(variables, images, train=False)
        weights = jax.grad(logit)(jnp.zeros_like(features)).mean((1, 2), keepdims=True)
        return nn.relu((weights * features).sum(-1))

    return lambda pixels, classes: np.asarray(cams(jnp.asarray(pixels), jnp.asarray(classes)))


def overlay(pixels: np.ndarray, cam: np.ndarray) -> Image.Image:
    """An image beside itself under its map, yellow where the map is highest, unchanged where it is 0.

    Small images are enlarged by a whole number, to be seen.

    Args:
        pixels: uint8 `[height, width, 3]`.
        cam: `[rows, columns]`, as `grad_cam` gives it.
    """
    times = max(1, _WIDTH // pixels.shape[1])
    pixels = cv2.resize(pixels, None, fx=times, fy=times, interpolation=cv2.INTER_LINEAR)
    height, width = pixels.shape[:2]
    high = cv2.resize(cam / max(float(cam.max()), 1e-12), (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colors = matplotlib.colormaps["inferno"](high)[..., :3] * 255
    strength = 0.6 * high[..., None]
    mixed = (1 - strength) * pixels + strength * colors
    return Image.fromarray(np.concatenate([pixels, mixed.astype(np.uint8)], axis=1))
