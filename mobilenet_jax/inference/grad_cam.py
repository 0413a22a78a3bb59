"""Grad-CAM (Selvaraju et al. 2017): the regions of an image that raise the logit of a class."""

from collections.abc import Callable

import cv2
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from PIL import Image

from mobilenet_jax.inference.classifier import Classifier

_MIN_WIDTH = 448  # pixels; smaller images are enlarged by a whole number up to it
_OPACITY = 0.6  # opacity of the colors where the map is highest


def make_grad_cam(classifier: Classifier) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Compiles Grad-CAM for the last convolution of a model.

    The map is the sum of the convolution's output channels, each weighted by the mean gradient of the logit with
    respect to it, and clipped at 0. The gradient is that of the logit, because the gradient of the probability vanishes
    where the model is confident.

    Args:
        classifier: a model with any head.

    Returns:
        A function of images, uint8 `[n, height, width, 3]`, and the class to explain for each, int `[n]`. It returns
        float32 maps `[n, height / 32, width / 32]`, at least 0, and 0 everywhere if no region raises the logit.
    """
    model, variables = classifier.model, classifier.variables
    backbone = model.clone(head=None)

    @jax.jit
    def compute_maps(pixels: jax.Array, classes: jax.Array) -> jax.Array:
        images = classifier.scale_pixels(pixels)

        def sum_logits(shift: jax.Array) -> jax.Array:
            logits = model.apply({**variables, "perturbations": {"features": shift}}, images, train=False)
            return jnp.take_along_axis(logits, classes[:, None], 1).sum()

        features = backbone.apply(variables, images, train=False)
        weights = jax.grad(sum_logits)(jnp.zeros_like(features)).mean((1, 2), keepdims=True)
        return jax.nn.relu((weights * features).sum(-1))

    return lambda pixels, classes: np.asarray(compute_maps(jnp.asarray(pixels), jnp.asarray(classes)))


def draw_overlay(pixels: np.ndarray, cam: np.ndarray) -> Image.Image:
    """Draws an image next to itself overlaid with its map: yellow where the map is highest, unchanged where it is 0.

    Args:
        pixels: uint8 `[height, width, 3]`.
        cam: float `[rows, columns]`, one map of the function that `make_grad_cam` returns.
    """
    times = max(1, _MIN_WIDTH // pixels.shape[1])
    pixels = cv2.resize(pixels, None, fx=times, fy=times, interpolation=cv2.INTER_LINEAR)
    height, width = pixels.shape[:2]
    heat = cv2.resize(cam / max(float(cam.max()), 1e-12), (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colors = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    opacity = _OPACITY * heat[..., None]
    blended = (1 - opacity) * pixels + opacity * colors
    return Image.fromarray(np.concatenate([pixels, blended.astype(np.uint8)], axis=1))
