"""Random geometry and colour: a 3x3 matrix of each per example, drawn in numpy from (seed, epoch, example).

Parameters are drawn apart from pixels. The ranges and the order of the factors are those of Keras's
`ImageDataGenerator` (`keras/src/legacy/preprocessing/image.py`), with one deviation: there, `height_shift_range` moves
images along their columns and `width_shift_range` along their rows; here each does what its name says. With equal
ranges, as in the article, the two have the same distribution.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

FillMode = Literal["nearest", "constant", "reflect", "wrap"]

# Keep the draws apart from each other and from the order of the examples, which is drawn from the same seed.
_GEOMETRY, _COLOUR = 2, 3
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue, Rec. 601
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes. All zero, the default, changes nothing.

    Attributes:
        rotation: degrees; the angle is uniform in [-rotation, rotation].
        width_shift: share of the width; the shift to the side is uniform in [-width_shift, width_shift].
        height_shift: share of the height, likewise up and down.
        zoom: each axis is scaled by a factor of its own, uniform in [1 - zoom, 1 + zoom].
        shear: degrees; the angle is uniform in [-shear, shear].
        horizontal_flip: whether every other image, by chance, is mirrored left to right.
        vertical_flip: whether every other image, by chance, is mirrored top to bottom.
        fill_mode: what is seen beyond an image's edge: its `"nearest"` pixels, the image mirrored (`"reflect"`) or
            repeated (`"wrap"`), or `"constant"`, which is fill_value.
        fill_value: from 0 to 255.
        brightness: all values are multiplied by a factor uniform in [1 - brightness, 1 + brightness].
        contrast: the difference from the image's mean colour, likewise.
        saturation: the difference from grey, likewise.
        hue: share of the colour circle; the turn is uniform in [-hue, hue].
    """

    rotation: float = 0.0
    width_shift: float = 0.0
    height_shift: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False
    fill_mode: FillMode = "nearest"
    fill_value: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    @property
    def changes_colour(self) -> bool:
        """Whether colours are changed at all."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))


def draw_affine(augmentation: Augmentation, seed: int, epoch: int, index: int, size: int) -> np.ndarray:
    """Draws the matrix of one example in one epoch: a pure function of its arguments.

    Args:
        augmentation: the ranges.
        seed: of the run.
        epoch: counted from 0.
        index: the example's position in the training set.
        size: height and width of the image in pixels.

    Returns:
        float32 `[3, 3]`, as `affine_matrix` gives it.
    """
    rng = np.random.default_rng((seed, _GEOMETRY, epoch, index))
    degrees = rng.uniform(-augmentation.rotation, augmentation.rotation)
    dx = rng.uniform(-augmentation.width_shift, augmentation.width_shift) * size
    dy = rng.uniform(-augmentation.height_shift, augmentation.height_shift) * size
    zoom_x, zoom_y = rng.uniform(1 - augmentation.zoom, 1 + augmentation.zoom, 2)
    flip = augmentation.horizontal_flip and rng.random() < 0.5
    shear = rng.uniform(-augmentation.shear, augmentation.shear)
    upside_down = augmentation.vertical_flip and rng.random() < 0.5
    return affine_matrix(degrees, dx, dy, zoom_x, zoom_y, flip, size, shear=shear, upside_down=upside_down)


def affine_matrix(
    degrees: float,
    dx: float,
    dy: float,
    zoom_x: float,
    zoom_y: float,
    flip: bool,
    size: int,
    *,
    shear: float = 0.0,
    upside_down: bool = False,
) -> np.ndarray:
    """Composes rotation, shift, shear, zoom and mirrors about the centre of a square image.

    Args:
        degrees: the angle of the rotation.
        dx: the shift along the columns, in pixels.
        dy: the shift along the rows, in pixels.
        zoom_x: the factor along the columns; above 1 shows more of the scene, smaller.
        zoom_y: the factor along the rows.
        flip: whether the result is mirrored left to right.
        size: height and width of the image in pixels.
        shear: the angle of the shear in degrees.
        upside_down: whether the result is mirrored top to bottom.

    Returns:
        float32 `[3, 3]` that takes an output pixel `(x, y, 1)` to the input position it is read from.
    """
    sin, cos = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    centre = (size - 1) / 2
    factors = [
        [[1, 0, centre], [0, 1, centre], [0, 0, 1]],
        [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]],
        [[1, 0, dx], [0, 1, dy], [0, 0, 1]],
        [[1, -np.sin(np.deg2rad(shear)), 0], [0, np.cos(np.deg2rad(shear)), 0], [0, 0, 1]],
        [[zoom_x, 0, 0], [0, zoom_y, 0], [0, 0, 1]],
        [[1, 0, -centre], [0, 1, -centre], [0, 0, 1]],
    ]
    if flip:  # Keras mirrors what it has warped, so output coordinates pass the mirror first
        factors.append([[-1, 0, size - 1], [0, 1, 0], [0, 0, 1]])
    if upside_down:
        factors.append([[1, 0, 0], [0, -1, size - 1], [0, 0, 1]])
    return np.linalg.multi_dot([np.array(f, np.float64) for f in factors]).astype(np.float32)


def draw_colour(augmentation: Augmentation, seed: int, epoch: int, index: int) -> np.ndarray:
    """Draws the change of colour of one example in one epoch: a pure function of its arguments.

    Returns:
        float32 `[4, 3]`: the three rows that red, green and blue are multiplied by, and a row of the contrast.
    """
    rng = np.random.default_rng((seed, _COLOUR, epoch, index))
    ranges = (augmentation.brightness, augmentation.contrast, augmentation.saturation)
    brightness, contrast, saturation = (rng.uniform(1 - r, 1 + r) for r in ranges)
    return colour_matrix(brightness, contrast, saturation, rng.uniform(-augmentation.hue, augmentation.hue))


def colour_matrix(brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """Composes changes of colour, all of which are linear: a pixel as a column is multiplied from the left.

    Args:
        brightness: the factor of all values.
        contrast: the factor of the difference from the image's mean colour.
        saturation: the factor of the difference from grey of the same luminance.
        hue: the turn about the axis of grey in the YIQ colour space, as a share of the circle.

    Returns:
        float32 `[4, 3]`, see `draw_colour`.
    """
    sin, cos = np.sin(2 * np.pi * hue), np.cos(2 * np.pi * hue)
    turn = np.linalg.inv(_YIQ) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _YIQ
    grey = np.tile(_LUMINANCE, (3, 1))
    matrix = brightness * turn @ (grey + saturation * (np.eye(3) - grey))
    return np.vstack([matrix, np.full((1, 3), contrast)]).astype(np.float32)
