"""Operations on the pixels of images, from the file to the input of a network: decode, resize, warp, recolor, scale.

Pillow decodes, OpenCV does the rest. No operation is random.
"""

import struct
from io import BytesIO
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from input_pipeline.augment import Augmentation, FillMode
from input_pipeline.errors import DataError
from input_pipeline.preprocessing import MINKOWSKI_NORM, STRETCH, InputScaling, Preprocessing

FAST_FORMATS = ("JPEG", "PNG")  # by Pillow's names; decoded by TensorFlow in its graph
FORMATS = (*FAST_FORMATS, "WEBP", "BMP", "TIFF", "GIF")

cv2.setNumThreads(0)  # one thread per image, since many images are processed at once

_REDUCTIONS = (8, 4, 2)  # factors by which the sides of a JPEG shrink while it is decoded
# A JPEG that is decoded at a reduced size keeps sides of at least this multiple of the result's: area averaging then
# gives nearly the pixels of a full decoding, as on phones and in browsers (docs/architecture.md).
OVERSAMPLING = 4
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_BITS = 24  # the position of the bits per channel in a PNG
_BITS_PER_SAMPLE, _ORIENTATION = 258, 274  # the numbers of tags in TIFF files and EXIF data
_ROTATED = range(2, 9)  # orientations; 1 is upright, and 0 undefined
_DEEP_MODES = ("I", "F")  # Pillow would clip these to 8 bits; 16-bit modes are named "I;16" and alike
_BORDERS: dict[FillMode, int] = {
    "nearest": cv2.BORDER_REPLICATE,
    "constant": cv2.BORDER_CONSTANT,
    "reflect": cv2.BORDER_REFLECT,
    "wrap": cv2.BORDER_WRAP,
}


class DecodedImage(NamedTuple):
    """An image as a network sees it.

    Attributes:
        pixels: uint8 `[height, width, 3]`.
        is_rotated: whether viewers would rotate or flip the image, see `is_marked_as_rotated`.
    """

    pixels: np.ndarray
    is_rotated: bool


def decode_image(data: bytes, size: tuple[int, int], preprocessing: Preprocessing = STRETCH) -> DecodedImage:
    """Decodes and preprocesses an image, to the same pixels as the TensorFlow graph of training.

    Args:
        data: the content of the file.
        size: height and width of the result.
        preprocessing: see `preprocess`.

    Raises:
        DataError: the data are not an image in one of `FORMATS`, have more than 8 bits per channel, or are damaged.
    """
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)  # reads the header only
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"it is too large: {describe_limit()}") from error
    except Exception as error:  # Pillow raises almost any type for damaged headers
        raise DataError(f"it {describe_unreadable(data)}") from error
    if is_deep_png(data):
        raise DataError("it has 16 bits per channel (convert it to 8 bits)")
    with image:
        is_rotated = is_marked_as_rotated(image)
        ratio = min(image.height // size[0], image.width // size[1]) // OVERSAMPLING
        reduction = next((r for r in _REDUCTIONS if ratio >= r), None)
        if reduction and image.mode != "CMYK":  # `draft` changes only JPEGs
            image.draft(None, (image.width // reduction, image.height // reduction))
        return DecodedImage(preprocess(_load_pixels(image), size, preprocessing), is_rotated)


def describe_unreadable(data: bytes) -> str:
    """Describes a file whose header cannot be read, by its signature."""
    if not data:
        return "is empty"
    if data.startswith(b"\xff\xd8\xff"):
        return "is a truncated or damaged JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "is a truncated or damaged WEBP"
    if data[4:8] == b"ftyp":
        return "is a HEIC image or a video, which cannot be read (convert it to JPEG or PNG)"
    if data.startswith(PNG_SIGNATURE[:4]):
        return "is a truncated or damaged PNG"
    return f"is not an image in one of the formats {', '.join(FORMATS)}, or is damaged"


def is_deep_png(data: bytes) -> bool:
    """Returns whether a file is a PNG of 16 bits per channel.

    Decoders drop the lower 8 bits, so that an image of 12 bits in 16, as X-ray machines write them, would be black.
    """
    return data.startswith(PNG_SIGNATURE) and data[_PNG_BITS : _PNG_BITS + 1] == b"\x10"


def describe_limit() -> str:
    """Describes the limit of Pillow that an image exceeds, and how to get below it."""
    return f"it has more than {2e-6 * (Image.MAX_IMAGE_PIXELS or 0):.0f} megapixels (reduce its size)"


def is_marked_as_rotated(image: Image.Image) -> bool:
    """Returns whether the EXIF data of an opened image mark it as rotated or flipped, which decoding ignores.

    Damaged EXIF data are ignored: the pixels do not need them.
    """
    # Pillow rotates TIFF images when it decodes them. `getexif` would decode a PNG without EXIF data.
    if image.format not in ("JPEG", "MPO", "PNG", "WEBP") or "exif" not in image.info:
        return False
    try:
        return image.getexif().get(_ORIENTATION) in _ROTATED
    except (OSError, ValueError, SyntaxError, struct.error):
        return False


def decode_with_pillow(data: bytes) -> np.ndarray:
    """Decodes the first frame of an image in one of `FORMATS` to uint8 `[height, width, 3]`; transparency is dropped.

    Raises:
        DataError: the data are damaged, or have more than 8 bits per channel.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            return _load_pixels(image)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow raises almost any type for damaged headers
        raise DataError("it is a truncated or damaged image") from error


def _load_pixels(image: Image.Image) -> np.ndarray:
    """Decodes an opened image."""
    try:
        bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) if isinstance(image, TiffImageFile) else 8
        if image.mode in _DEEP_MODES or image.mode.startswith("I;") or bits > 8:
            raise DataError(f"its mode is {image.mode}, more than 8 bits per channel")
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow raises almost any type for damaged files
        raise DataError("it is a truncated or damaged image") from error


def preprocess(image: np.ndarray, size: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """Applies the steps of `preprocessing` to uint8 `[any height, any width, 3]`.

    Args:
        image: the decoded image.
        size: height and width of the result.
        preprocessing: the steps.

    Returns:
        uint8 `[height, width, 3]`.
    """
    if preprocessing.resize == "crop":
        image = crop_center(image, size)
    image = resize(image, size)
    return remove_color_cast(image) if preprocessing.color_constancy == "shades_of_gray" else image


def crop_center(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the largest part of `[any height, any width, 3]` that has the proportions of `size` and the same center.

    Cropping first and resizing afterwards is equivalent to torchvision's `Resize` and `CenterCrop`, in the other order.
    """
    height, width = image.shape[:2]
    scale = min(height / size[0], width / size[1])
    rows, columns = max(1, round(scale * size[0])), max(1, round(scale * size[1]))
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[top : top + rows, left : left + columns]


def remove_color_cast(image: np.ndarray) -> np.ndarray:
    """Removes the color of the light that "shades of gray" estimates (Finlayson and Trezzi 2004).

    The light's channels are proportional to the Minkowski means of the image's with the norm 6. Each channel is divided
    by its own mean and multiplied by the average of the three, so that gray light changes nothing.

    Args:
        image: uint8 `[height, width, 3]`.

    Returns:
        uint8 of the same shape.
    """
    return cv2.convertScaleAbs(image * compute_color_gains(image))


def compute_color_gains(image: np.ndarray) -> np.ndarray:
    """Computes the factors that `remove_color_cast` multiplies the channels by.

    Args:
        image: uint8 `[height, width, 3]`.

    Returns:
        float64 `[3]`.
    """
    means = np.mean((image / 255.0) ** MINKOWSKI_NORM, (0, 1)) ** (1 / MINKOWSKI_NORM)
    return means.mean() / np.maximum(means, 1 / 255)  # a channel of zeros stays


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes uint8 `[any height, any width, 3]` to `[height, width, 3]`.

    Downscaling averages areas, so that nothing aliases; upscaling is bilinear.
    """
    if image.shape[0] < size[0] or image.shape[1] < size[1]:
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    if image.shape[0] % size[0] == 0 and image.shape[1] % size[1] == 0:
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    # Bitwise identical to OpenCV's result for integers, in two thirds of the time.
    return cv2.convertScaleAbs(cv2.resize(image.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA))


def scale_pixels(image: np.ndarray, input_scaling: InputScaling, out: np.ndarray | None = None) -> np.ndarray:
    """Scales pixels from 0 to 255, of any shape, to float32 in the range `input_scaling`; into `out` if given."""
    low, high = map(np.asarray, input_scaling)
    scaled = np.multiply(image, np.float32((high - low) / 255), out=out, dtype=np.float32)
    return np.add(scaled, np.float32(low), out=scaled) if low.any() else scaled


def augment_images(
    images: np.ndarray, affine: np.ndarray, color: np.ndarray, augmentation: Augmentation, input_scaling: InputScaling
) -> np.ndarray:
    """Applies sampled geometry and color to images and scales their pixels.

    Args:
        images: uint8 `[batch, size, size, 3]`.
        affine: float32 `[batch, 3, 3]`, see `augment.make_affine_matrix`.
        color: float32 `[batch, 4, 3]`, see `augment.sample_color`.
        augmentation: the fill mode, and whether colors change at all.
        input_scaling: the `(low, high)` range that pixel values 0 and 255 are mapped to.

    Returns:
        float32 `[batch, size, size, 3]`.
    """
    augmented = np.empty(images.shape, np.float32)
    for image, matrix, colors, out in zip(images, affine, color, augmented, strict=True):
        warp(image, matrix, augmentation, out)
        if augmentation.changes_color:
            out[:] = recolor(out, colors)
        scale_pixels(out, input_scaling, out)
    return augmented


def warp(image: np.ndarray, affine: np.ndarray, augmentation: Augmentation, out: np.ndarray) -> None:
    """Inverse-warps an image with bilinear interpolation into `out`, float32 from 0 to 255.

    The matrix maps each output pixel to the input position that it is read from.
    """
    cv2.warpAffine(
        image.astype(np.float32),
        affine[:2],
        image.shape[1::-1],
        dst=out,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=_BORDERS[augmentation.fill_mode],
        borderValue=(augmentation.fill_value,) * 3,
        hint=cv2.ALGO_HINT_ACCURATE,  # otherwise positions are rounded to 1/32 of a pixel
    )


def recolor(image: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Changes the colors of float32 `[height, width, 3]`, from 0 to 255."""
    image = cv2.transform(image, color[:3])
    mean = image.mean((0, 1), keepdims=True)
    return np.clip(mean + color[3] * (image - mean), 0, 255)
