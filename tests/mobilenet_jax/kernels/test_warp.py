import numpy as np
import pytest

from mobilenet_jax.kernels.warp import warp_image

AFFINE = np.array([[0.9, -0.4, 1.3], [0.3, 1.1, -2.2], [0, 0, 1]], np.float32)


def get_pixel(image, y, x, fill_mode):
    """Returns one pixel, which may be outside of the image; 90 there for `"constant"`."""
    indices = []
    for i, size in ((y, image.shape[0]), (x, image.shape[1])):
        if fill_mode == "constant" and not 0 <= i < size:
            return np.full(image.shape[2], 90.0)
        period = i % (2 * size)
        reflected = period if period < size else 2 * size - 1 - period
        indices.append({"nearest": min(max(i, 0), size - 1), "wrap": i % size}.get(fill_mode, reflected))
    return image[tuple(indices)].astype(np.float64)


def warp_plainly(image, affine, fill_mode):
    """Interpolates each pixel between its four neighbors."""
    warped = np.zeros(image.shape)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            x, y, _ = affine.astype(np.float64) @ [column, row, 1]
            left, top = int(np.floor(x)), int(np.floor(y))
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = abs(1 - i - (y - top)) * abs(1 - j - (x - left))
                warped[row, column] += weight * get_pixel(image, top + i, left + j, fill_mode)
    return warped


@pytest.mark.parametrize("fill_mode", ["nearest", "reflect", "wrap", "constant"])
def test_the_warp_is_the_plain_interpolation(fill_mode):
    image = np.random.default_rng(0).uniform(0, 255, (9, 7, 3)).astype(np.float32)
    expected = warp_plainly(image, AFFINE, fill_mode)
    np.testing.assert_allclose(warp_image(image, AFFINE, fill_mode, 90.0), expected, atol=1e-3)


def test_the_identity_returns_the_image():
    image = np.random.default_rng(0).uniform(0, 255, (6, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(warp_image(image, np.eye(3, dtype=np.float32), "nearest", 0.0), image, rtol=1e-6)
