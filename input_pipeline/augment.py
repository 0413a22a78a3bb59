"""Random geometry: one 3x3 matrix per example, drawn in numpy from (seed, epoch, example).

Parameters are drawn apart from pixels. The ranges and the order of the factors are those of Keras's
`ImageDataGenerator` (`keras/src/legacy/preprocessing/image.py`), with one deviation: there, `height_shift_range` moves
images along their columns and `width_shift_range` along their rows; here each does what its name says. With equal
ranges, as in the article, the two have the same distribution.
"""

from dataclasses import dataclass

import numpy as np

_STREAM = 2  # keeps these draws apart from the order of the examples, which is drawn from the same seed


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes. All zero, the default, changes nothing.

    Attributes:
        rotation: degrees; the angle is uniform in [-rotation, rotation].
        width_shift: share of the width; the shift to the side is uniform in [-width_shift, width_shift].
        height_shift: share of the height, likewise up and down.
        zoom: each axis is scaled by a factor of its own, uniform in [1 - zoom, 1 + zoom].
        horizontal_flip: whether every other image, by chance, is mirrored.
    """

    rotation: float = 0.0
    width_shift: float = 0.0
    height_shift: float = 0.0
    zoom: float = 0.0
    horizontal_flip: bool = False


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
    rng = np.random.default_rng((seed, _STREAM, epoch, index))
    degrees = rng.uniform(-augmentation.rotation, augmentation.rotation)
    dx = rng.uniform(-augmentation.width_shift, augmentation.width_shift) * size
    dy = rng.uniform(-augmentation.height_shift, augmentation.height_shift) * size
    zoom_x, zoom_y = rng.uniform(1 - augmentation.zoom, 1 + augmentation.zoom, 2)
    flip = augmentation.horizontal_flip and rng.random() < 0.5
    return affine_matrix(degrees, dx, dy, zoom_x, zoom_y, flip, size)


def affine_matrix(
    degrees: float, dx: float, dy: float, zoom_x: float, zoom_y: float, flip: bool, size: int
) -> np.ndarray:
    """Composes rotation, shift, zoom and mirror about the centre of a square image.

    Args:
        degrees: the angle of the rotation.
        dx: the shift along the columns, in pixels.
        dy: the shift along the rows, in pixels.
        zoom_x: the factor along the columns; above 1 shows more of the scene, smaller.
        zoom_y: the factor along the rows.
        flip: whether the result is mirrored left to right.
        size: height and width of the image in pixels.

    Returns:
        float32 `[3, 3]` that takes an output pixel `(x, y, 1)` to the input position it is read from.
    """
    sin, cos = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    centre = (size - 1) / 2
    factors = [
        [[1, 0, centre], [0, 1, centre], [0, 0, 1]],
        [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]],
        [[1, 0, dx], [0, 1, dy], [0, 0, 1]],
        [[zoom_x, 0, 0], [0, zoom_y, 0], [0, 0, 1]],
        [[1, 0, -centre], [0, 1, -centre], [0, 0, 1]],
    ]
    if flip:  # Keras mirrors what it has warped, so output coordinates pass the mirror first
        factors.append([[-1, 0, size - 1], [0, 1, 0], [0, 0, 1]])
    return np.linalg.multi_dot([np.array(f, np.float64) for f in factors]).astype(np.float32)
