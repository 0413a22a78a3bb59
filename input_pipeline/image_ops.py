"""The pixels of one image, from its own size to what a network takes. OpenCV does the work; nothing here is random."""

from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from input_pipeline.augment import Augmentation
from input_pipeline.errors import DataError

InputScaling = tuple[float, float]

cv2.setNumThreads(0)  # an image is one thread's work, since many are worked on at once

_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
_BORDERS = {
    "nearest": cv2.BORDER_REPLICATE,
    "constant": cv2.BORDER_CONSTANT,
    "reflect": cv2.BORDER_REFLECT,
    "wrap": cv2.BORDER_WRAP,
}


def decode_image(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """A JPEG or PNG at `size` (height, width): the same pixels as training's graph of TensorFlow makes of it.

    But for a CMYK JPEG, whose pixels can differ by two levels of 255.

    Returns:
        uint8 `[height, width, 3]`.

    Raises:
        DataError: it is no such image, or a damaged one.
    """
    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:  # reads the header only
            times = min(image.height // size[0], image.width // size[1])
            is_jpeg = image.format in ("JPEG", "MPO")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError("it is no JPEG or PNG, or a damaged one") from error
    flags = next((flag for ratio, flag in _REDUCED if is_jpeg and times >= ratio), cv2.IMREAD_COLOR_RGB)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded is None:
        raise DataError("it is a truncated or damaged image, or not a JPEG or PNG")
    if flags != cv2.IMREAD_COLOR_RGB:
        decoded = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return resize(decoded, size)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 `[any height, any width, 3]` to `[height, width, 3]`.

    Made smaller, a pixel is the mean of the area it covers, so that nothing aliases; made larger, it is interpolated.
    """
    if image.shape[0] < size[0] or image.shape[1] < size[1]:
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    if image.shape[0] % size[0] == 0 and image.shape[1] % size[1] == 0:
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    # What OpenCV would make of the integers too, to the bit, in two thirds of the time.
    return cv2.convertScaleAbs(cv2.resize(image.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA))


def scale_pixels(image: np.ndarray, input_scaling: InputScaling, out: np.ndarray | None = None) -> np.ndarray:
    """Scales pixels from 0 to 255, of any shape, to float32 in the range `input_scaling`; into `out` if given."""
    low, high = input_scaling
    scaled = np.multiply(image, np.float32((high - low) / 255), out=out, dtype=np.float32)
    return np.add(scaled, np.float32(low), out=scaled) if low else scaled


def augment_images(
    images: np.ndarray, affine: np.ndarray, color: np.ndarray, augmentation: Augmentation, input_scaling: InputScaling
) -> np.ndarray:
    """Images as they were drawn to be changed.

    Args:
        images: uint8 `[batch, size, size, 3]`.
        affine: float32 `[batch, 3, 3]`, see `augment.make_affine_matrix`.
        color: float32 `[batch, 4, 3]`, see `augment.sample_color`.
        augmentation: says what is seen beyond the edge, and whether colors change.
        input_scaling: what pixel values 0 and 255 are mapped to.

    Returns:
        float32 `[batch, size, size, 3]`.
    """
    changed = np.empty(images.shape, np.float32)
    for image, matrix, colors, out in zip(images, affine, color, changed, strict=True):
        warp(image, matrix, augmentation, out)
        if augmentation.changes_color:
            out[:] = recolor(out, colors)
        scale_pixels(out, input_scaling, out)
    return changed


def warp(image: np.ndarray, affine: np.ndarray, augmentation: Augmentation, out: np.ndarray) -> None:
    """Reads each pixel from where the matrix says, between four pixels, into `out`: float32, from 0 to 255."""
    cv2.warpAffine(
        image.astype(np.float32),
        affine[:2],
        image.shape[1::-1],
        dst=out,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=_BORDERS[augmentation.fill_mode],
        borderValue=(augmentation.fill_value,) * 3,
        hint=cv2.ALGO_HINT_ACCURATE,  # or positions are rounded to 1/32 of a pixel
    )


def recolor(image: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Changes the colors of float32 `[height, width, 3]`, from 0 to 255."""
    image = cv2.transform(image, color[:3])
    mean = image.mean((0, 1), keepdims=True)
    return np.clip(mean + color[3] * (image - mean), 0, 255)
