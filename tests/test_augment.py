import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator, apply_affine_transform
from scipy.stats import kstest

from input_pipeline.augment import Augmentation, affine_matrix, draw_affine

ARTICLE = Augmentation(rotation=30, width_shift=0.3, height_shift=0.3, zoom=0.3, horizontal_flip=True)


def _warp(images, matrices):
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=np.stack(matrices).reshape(-1, 9)[:, :8],
        output_shape=images.shape[1:3],
        interpolation="BILINEAR",
        fill_mode="NEAREST",
        fill_value=0.0,
    ).numpy()


def test_warp_equals_keras_on_real_images(real_images):
    size, rng = 96, np.random.default_rng(0)
    images = np.stack([np.asarray(i.resize((size, size)), np.float32) for i in real_images])
    for _ in range(10):
        matrices, expected = [], []
        for image in images:
            theta, dx, dy = rng.uniform(-30, 30), *rng.uniform(-0.3, 0.3, 2) * size
            zoom_x, zoom_y = rng.uniform(0.7, 1.3, 2)
            flip = rng.random() < 0.5
            matrices.append(affine_matrix(theta, dx, dy, zoom_x, zoom_y, flip, size))
            # Keras's tx moves along the columns, though its generator draws it from height_shift_range.
            warped = apply_affine_transform(
                image, theta, dx, dy, 0, zoom_x, zoom_y, row_axis=0, col_axis=1, channel_axis=2
            )
            expected.append(warped[:, ::-1] if flip else warped)
        assert np.abs(_warp(images, matrices) - expected).max() < 0.05


def test_no_augmentation_is_the_identity(real_images):
    image = np.asarray(real_images[0].resize((64, 64)), np.float32)[None]
    matrix = draw_affine(Augmentation(), 0, 0, 0, 64)
    np.testing.assert_array_equal(matrix, np.eye(3))
    np.testing.assert_array_equal(_warp(image, [matrix]), image)


def test_width_shift_moves_along_the_columns():
    """The documented deviation from Keras, where width_shift_range moves along the rows."""
    image = np.zeros((1, 9, 9, 1), np.float32)
    image[0, 4, 4] = 1
    assert _warp(image, [affine_matrix(0, 2, 0, 1, 1, False, 9)])[0, 4, 2, 0] == 1


def test_parameters_are_distributed_as_kerass():
    size, n = 100, 3000
    generator = ImageDataGenerator(rotation_range=30, width_shift_range=0.3, height_shift_range=0.3, zoom_range=0.3)
    theirs = [generator.get_random_transform((size, size, 3), seed=i) for i in range(n)]
    no_flip = Augmentation(30, 0.3, 0.3, 0.3, False)
    mine = [_parameters(draw_affine(no_flip, 0, 0, i, size).astype(float), size) for i in range(n)]
    for key, ours in zip(("theta", "tx", "ty", "zx", "zy"), np.transpose(mine), strict=True):
        assert kstest(ours, [t[key] for t in theirs]).pvalue > 1e-3, key


def _parameters(matrix, size):
    """Takes a matrix without flip apart again: angle in degrees, shifts in pixels, zooms."""
    zoom_x, zoom_y = np.hypot(*matrix[:2, 0]), np.hypot(*matrix[:2, 1])
    theta = np.arctan2(matrix[1, 0], matrix[0, 0])
    centre = np.full(2, (size - 1) / 2)
    rotation = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    dx, dy = rotation.T @ (matrix[:2, :2] @ centre + matrix[:2, 2] - centre)
    return np.rad2deg(theta), dx, dy, zoom_x, zoom_y


def test_half_of_the_images_are_flipped():
    flips = [np.linalg.det(draw_affine(ARTICLE, 0, 0, i, 64)) < 0 for i in range(2000)]
    assert 0.45 < np.mean(flips) < 0.55


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_a_draw_depends_on_seed_epoch_and_index_alone(other):
    np.testing.assert_array_equal(draw_affine(ARTICLE, 0, 0, 0, 64), draw_affine(ARTICLE, 0, 0, 0, 64))
    assert not np.allclose(draw_affine(ARTICLE, 0, 0, 0, 64), draw_affine(ARTICLE, *other, 64))
