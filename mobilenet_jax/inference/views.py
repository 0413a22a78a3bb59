"""Views of an image for test-time augmentation: the eight symmetries of a square."""

import jax

MAX_VIEWS = 8


def count_views(image_size: tuple[int, int]) -> int:
    """Returns the number of views that keep the image size `(height, width)`: 8 for squares, else 4."""
    height, width = image_size
    return MAX_VIEWS if height == width else MAX_VIEWS // 2


def apply_view(images: jax.Array, index: int) -> jax.Array:
    """Returns one of the eight views: flipped horizontally, flipped vertically, transposed, and their combinations.

    Args:
        images: `[n, height, width, 3]`.
        index: from 0, the images unchanged, to 7. Bit 0 flips horizontally, bit 1 vertically, and bit 2 transposes,
            which swaps height and width.
    """
    if index & 1:
        images = images[:, :, ::-1]
    if index & 2:
        images = images[:, ::-1]
    return images.swapaxes(1, 2) if index & 4 else images
