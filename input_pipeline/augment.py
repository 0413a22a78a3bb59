"""Samples random geometry and color: one matrix of each per example, keyed by (seed, epoch, example).

Parameters are sampled separately from the pixels. The ranges and the order of the factors are those of Keras's
`ImageDataGenerator` (`keras/src/legacy/preprocessing/image.py`), with one deviation. There, `height_shift_range` moves
images along their columns and `width_shift_range` along their rows; here, each is true to its name. With equal ranges,
as in the article, the two have the same distribution. Crops, and the selection of a few operations per image, are
additions that are off by default.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

FillMode = Literal["nearest", "constant", "reflect", "wrap"]

# The random streams are separate from each other and from that of the order of the examples, which has the same seed.
_GEOMETRY_STREAM, _COLOR_STREAM, _CROP_STREAM, _SELECTION_STREAM = 2, 3, 4, 5
NUM_OPERATIONS = 9  # `Augmentation.operations` selects from these: five of geometry, then four of color
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue, Rec. 601
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True)
class Augmentation:
    """The ranges of the random parameters. The default, all zero, leaves images unchanged.

    Attributes:
        rotation: degrees; the angle is uniform in [-rotation, rotation].
        width_shift: fraction of the width; the horizontal shift is uniform in [-width_shift, width_shift].
        height_shift: fraction of the height; the vertical shift is uniform in [-height_shift, height_shift].
        zoom: each axis is scaled by a factor of its own, uniform in [1 - zoom, 1 + zoom].
        shear: degrees; the angle is uniform in [-shear, shear].
        horizontal_flip: whether to mirror images left to right with probability 1/2.
        vertical_flip: whether to mirror images top to bottom with probability 1/2.
        fill_mode: the pixels beyond an image's edge: the `"nearest"` pixels of the image, the image mirrored
            (`"reflect"`) or repeated (`"wrap"`), or `"constant"`, which is `fill_value`.
        fill_value: from 0 to 255.
        brightness: all values are multiplied by a factor uniform in [1 - brightness, 1 + brightness].
        contrast: the difference from the image's mean color is multiplied by a factor in the same way.
        saturation: the difference from gray is multiplied by a factor in the same way.
        hue: fraction of the color circle; the rotation is uniform in [-hue, hue].
        crop_area: after the geometry above, a random part of the image is enlarged to the size of the image. Its
            fraction of the area is uniform in [crop_area, 1].
        crop_ratio: the width of that part divided by its height is log-uniform in [1 / crop_ratio, crop_ratio]. A part
            that does not fit into the image is cut at its edges, which makes it smaller. If both are 1, nothing is
            cropped.
        operations: the number of operations per image, chosen at random from rotation, the two shifts, zoom, shear
            and the four changes of color, as far as their ranges are not 0; 0 applies all of them. Flips and crops are
            not counted.
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
    crop_area: float = 1.0
    crop_ratio: float = 1.0
    operations: int = 0

    @property
    def changes_color(self) -> bool:
        """Whether the augmentation changes colors at all."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))


def sample_affine(augmentation: Augmentation, seed: int, epoch: int, n: int, size: int) -> np.ndarray:
    """Samples the matrices of all examples in one epoch; that of example i is a function of (seed, epoch, i) alone.

    Args:
        augmentation: the ranges.
        seed: seed of the run.
        epoch: counted from 0.
        n: the number of examples.
        size: height and width of the images in pixels.

    Returns:
        float32 `[n, 3, 3]`, see `make_affine_matrix`.
    """
    u = np.random.default_rng((seed, _GEOMETRY_STREAM, epoch)).random((n, 8)).T
    rotates, shifts_x, shifts_y, zooms, shears = select_operations(augmentation, seed, epoch, n)[:5]
    affine = make_affine_matrix(
        degrees=_spread(u[0], augmentation.rotation) * rotates,
        dx=_spread(u[1], augmentation.width_shift) * size * shifts_x,
        dy=_spread(u[2], augmentation.height_shift) * size * shifts_y,
        zoom_x=1 + _spread(u[3], augmentation.zoom) * zooms,
        zoom_y=1 + _spread(u[4], augmentation.zoom) * zooms,
        flip=augmentation.horizontal_flip & (u[5] < 0.5),
        size=size,
        shear=_spread(u[6], augmentation.shear) * shears,
        upside_down=augmentation.vertical_flip & (u[7] < 0.5),
    )
    if augmentation.crop_area == 1 and augmentation.crop_ratio == 1:
        return affine
    u = np.random.default_rng((seed, _CROP_STREAM, epoch)).random((n, 4)).T
    area = augmentation.crop_area + (1 - augmentation.crop_area) * u[0]
    ratio = np.exp(_spread(u[1], np.log(augmentation.crop_ratio)))
    return affine @ make_crop_matrix(area, ratio, u[2], u[3], size)


def select_operations(augmentation: Augmentation, seed: int, epoch: int, n: int) -> np.ndarray:
    """Selects the operations that change each example in one epoch.

    With `operations=N` they are N different ones of those whose range is not 0, each equally often. This is similar
    to RandAugment (Cubuk et al. 2020, arXiv:1909.13719), which samples with replacement; its magnitude is the ranges.

    Returns:
        bool `[9, n]`: rotation, width shift, height shift, zoom, shear, brightness, contrast, saturation, hue.
    """
    if not augmentation.operations:
        return np.ones((NUM_OPERATIONS, n), bool)
    a = augmentation
    ranges = (a.rotation, a.width_shift, a.height_shift, a.zoom, a.shear, a.brightness, a.contrast, a.saturation, a.hue)
    priority = np.random.default_rng((seed, _SELECTION_STREAM, epoch)).random((n, NUM_OPERATIONS))
    priority[:, np.array(ranges) == 0] = 2  # after all others
    return (priority.argsort(1).argsort(1) < augmentation.operations).T


def _spread(u: np.ndarray, reach: float) -> np.ndarray:
    """Maps uniform numbers from [0, 1) to [-reach, reach)."""
    return (2 * u - 1) * reach


def make_affine_matrix(
    degrees: ArrayLike,
    dx: ArrayLike,
    dy: ArrayLike,
    zoom_x: ArrayLike,
    zoom_y: ArrayLike,
    flip: ArrayLike,
    size: int,
    *,
    shear: ArrayLike = 0.0,
    upside_down: ArrayLike = False,
) -> np.ndarray:
    """Composes rotation, shift, shear, zoom and flips about the center of square images.

    Args:
        degrees: the angle of the rotation; like the other arguments, a number or an array, all of one shape.
        dx: the shift along the columns, in pixels.
        dy: the shift along the rows, in pixels.
        zoom_x: the factor along the columns; values above 1 zoom out.
        zoom_y: the factor along the rows.
        flip: whether to mirror the result left to right.
        size: height and width of the image in pixels.
        shear: the angle of the shear in degrees.
        upside_down: whether to mirror the result top to bottom.

    Returns:
        float32 `[..., 3, 3]` that maps an output pixel `(x, y, 1)` to the input position it is read from.
    """
    angle, slant = np.deg2rad(degrees), np.deg2rad(shear)
    sin, cos = np.sin(angle), np.cos(angle)
    center = (size - 1) / 2
    mirror_x, mirror_y = 1 - 2 * np.asarray(flip, float), 1 - 2 * np.asarray(upside_down, float)
    matrix = (
        _build_affine(1, 0, center, 0, 1, center)
        @ _build_affine(cos, -sin, 0, sin, cos, 0)
        @ _build_affine(1, 0, dx, 0, 1, dy)
        @ _build_affine(1, -np.sin(slant), 0, 0, np.cos(slant), 0)
        @ _build_affine(zoom_x, 0, 0, 0, zoom_y, 0)
        @ _build_affine(mirror_x, 0, 0, 0, mirror_y, 0)  # last, because Keras flips after it has warped
        @ _build_affine(1, 0, -center, 0, 1, -center)
    )
    return matrix.astype(np.float32)


def make_crop_matrix(area: ArrayLike, ratio: ArrayLike, x: ArrayLike, y: ArrayLike, size: int) -> np.ndarray:
    """Makes the matrix that enlarges a part of a square image to all of it (Szegedy et al. 2015, section 6).

    Args:
        area: the fraction of the area; like the other arguments, a number or an array, all of one shape.
        ratio: width divided by height. A part that does not fit is cut at the edge of the image.
        x: the position along the columns: 0 is the leftmost one, 1 the rightmost.
        y: the position along the rows.
        size: height and width of the image in pixels.

    Returns:
        float32 `[..., 3, 3]`, see `make_affine_matrix`.
    """
    width, height = np.minimum(np.sqrt(np.multiply(area, ratio)), 1), np.minimum(np.sqrt(np.divide(area, ratio)), 1)
    left, top = (1 - width) * x * size, (1 - height) * y * size
    # The centers of pixels have integer coordinates, so the edge of the image is at -1/2.
    return _build_affine(width, 0, left + (width - 1) / 2, 0, height, top + (height - 1) / 2).astype(np.float32)


def _build_affine(*rows: ArrayLike) -> np.ndarray:
    """Builds `[..., 3, 3]` from the entries of the first two rows."""
    return _build_matrix(*rows, 0, 0, 1)


def _build_matrix(*rows: ArrayLike) -> np.ndarray:
    """Builds `[..., 3, 3]` from nine entries, each a number or an array."""
    entries = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in rows))
    return np.stack(entries, -1).reshape(*entries[0].shape, 3, 3)


def sample_color(augmentation: Augmentation, seed: int, epoch: int, n: int) -> np.ndarray:
    """Samples the color changes of all examples in one epoch, like `sample_affine`.

    Returns:
        float32 `[n, 4, 3]`: the 3x3 matrix that pixels are multiplied by, and a row that repeats the contrast factor.
    """
    u = np.random.default_rng((seed, _COLOR_STREAM, epoch)).random((n, 4)).T
    ranges = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
    selected = select_operations(augmentation, seed, epoch, n)[5:]
    brightness, contrast, saturation, hue = (
        _spread(x, reach) * is_selected for x, reach, is_selected in zip(u, ranges, selected, strict=True)
    )
    return make_color_matrix(1 + brightness, 1 + contrast, 1 + saturation, hue)


def make_color_matrix(brightness: ArrayLike, contrast: ArrayLike, saturation: ArrayLike, hue: ArrayLike) -> np.ndarray:
    """Composes color changes, which are all linear: pixels are column vectors, multiplied from the left.

    Args:
        brightness: the factor of all values; like the other arguments, a number or an array, all of one shape.
        contrast: the factor of the difference from the image's mean color.
        saturation: the factor of the difference from gray of the same luminance.
        hue: the rotation about the gray axis of the YIQ color space, as a fraction of the circle.

    Returns:
        float32 `[..., 4, 3]`, see `sample_color`.
    """
    brightness, contrast, saturation = (np.asarray(x)[..., None, None] for x in (brightness, contrast, saturation))
    sin, cos = np.sin(2 * np.pi * np.asarray(hue)), np.cos(2 * np.pi * np.asarray(hue))
    rotation = np.linalg.inv(_YIQ) @ _build_matrix(1, 0, 0, 0, cos, -sin, 0, sin, cos) @ _YIQ
    gray = np.tile(_LUMINANCE, (3, 1))
    matrix = brightness * rotation @ (gray + saturation * (np.eye(3) - gray))
    return np.concatenate([matrix, np.broadcast_to(contrast, (*matrix.shape[:-2], 1, 3))], -2).astype(np.float32)
