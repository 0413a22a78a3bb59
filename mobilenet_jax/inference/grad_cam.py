"""Grad-CAM (Selvaraju et al. 2017): the regions of an image that raise the logit of a class."""

from collections.abc import Callable

import cv2
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from input_pipeline.fonts import find_fonts
from mobilenet_jax.inference.classifier import Classifier

_MIN_WIDTH = 448  # pixels; smaller images are enlarged by a whole number up to it
_OPACITY = 0.6  # opacity of the colors where the map is highest
_FONT_SIZE, _TITLE_HEIGHT, _SCALE_WIDTH, _BAR_WIDTH = 16, 32, 110, 18  # pixels
_MIN_HEIGHT = 128  # pixels below the title, for the scale
_BAR_GRAY = 160  # the color scale is blended with this gray, as the map is with the image


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
    return Image.fromarray(np.concatenate([pixels, _blend(pixels, heat)], axis=1))


def draw_explanation(pixels: np.ndarray, cam: np.ndarray, title: str) -> Image.Image:
    """Draws the overlay of `draw_overlay` below a title, and next to the scale of its colors.

    Args:
        pixels: uint8 `[height, width, 3]`.
        cam: float `[rows, columns]`, see `draw_overlay`.
        title: one line, such as `format_explanation` returns; cut off at the edge of the picture.
    """
    overlay = draw_overlay(pixels, cam)
    height = _TITLE_HEIGHT + max(overlay.height, _MIN_HEIGHT)
    picture = Image.new("RGB", (overlay.width + _SCALE_WIDTH, height), "white")
    picture.paste(overlay, (0, _TITLE_HEIGHT))
    pen, file = ImageDraw.Draw(picture), font_manager.findfont(find_fonts([title])[-1])
    font = ImageFont.truetype(file, _FONT_SIZE)
    pen.text((8, _TITLE_HEIGHT // 2), title, "black", font, anchor="lm")

    left, top, bottom = overlay.width + 12, _TITLE_HEIGHT + 2 * _FONT_SIZE, picture.height - 2 * _FONT_SIZE
    heat = np.tile(np.linspace(1, 0, bottom - top)[:, None], (1, _BAR_WIDTH))
    bar = Image.fromarray(_blend(np.full((*heat.shape, 3), _BAR_GRAY, np.uint8), heat))
    picture.paste(bar, (left, top))
    ticks = {top: "highest", (top + bottom) // 2: "half", bottom: "none"} if cam.any() else {bottom: "none"}
    for y, label in ticks.items():
        pen.line([(left + _BAR_WIDTH, y), (left + _BAR_WIDTH + 5, y)], "black")
        pen.text((left + _BAR_WIDTH + 9, y), label, "black", font, anchor="lm")
    return picture


def format_explanation(class_name: str, probability: float, predicted: str, predicted_probability: float) -> str:
    """Returns the title of an explanation: the explained class, and the predicted one if it is another."""
    title = f"Evidence for {class_name} (probability {probability:.3f})"
    return title if class_name == predicted else f"{title}, predicted: {predicted} ({predicted_probability:.3f})"


def _blend(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blends pixels `[height, width, 3]` with the colors of a map `[height, width]` from 0 to 1."""
    colors = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    opacity = _OPACITY * heat[..., None]
    return ((1 - opacity) * pixels + opacity * colors).astype(np.uint8)
