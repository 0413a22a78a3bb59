import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator, apply_affine_transform
from scipy.stats import kstest

from input_pipeline.augment import Augmentation, make_affine_matrix, make_color_matrix, sample_affine, sample_color
from input_pipeline.image_ops import change, recolor, resize, scale, warp

ARTICLE = Augmentation(rotation=30, width_shift=0.3, height_shift=0.3, zoom=0.3, horizontal_flip=True)
ALL = Augmentation(30, 0.3, 0.3, 0.3, 20, True, True, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)


def _warp(image, matrix, fill_mode="nearest"):
    warp(image, matrix, Augmentation(fill_mode=fill_mode, fill_value=90.0), out := np.empty(image.shape, np.float32))
    return out


def _just_outside(matrix, size):
    y, x = np.mgrid[:size, :size]
    beyond = np.tensordot(matrix[:2], np.stack([x, y, np.ones_like(x)]), 1)
    outside = np.maximum(-beyond, beyond - (size - 1)).max(0)  # [y, x], in pixels
    return (outside > -1e-3) & (outside < 1 + 1e-3)


@pytest.mark.parametrize("fill_mode", ["nearest", "constant", "reflect"])
def test_warp_equals_keras_on_real_images(real_images, fill_mode):
    size, rng = 96, np.random.default_rng(0)
    images = [np.asarray(image.resize((size, size))) for image in real_images]
    for image in images * 51:  # 204 sets of parameters
        theta, dx, dy = rng.uniform(-30, 30), *rng.uniform(-0.3, 0.3, 2) * size
        zoom_x, zoom_y = rng.uniform(0.7, 1.3, 2)
        flip, upside_down, shear = rng.random() < 0.5, rng.random() < 0.5, rng.uniform(-20, 20)
        matrix = make_affine_matrix(theta, dx, dy, zoom_x, zoom_y, flip, size, shear=shear, upside_down=upside_down)
        # Keras's tx moves along the columns, though its generator draws it from height_shift_range.
        expected = apply_affine_transform(
            image.astype(np.float32), theta, dx, dy, shear, zoom_x, zoom_y, 0, 1, 2, fill_mode=fill_mode, cval=90
        )
        expected = expected[:, ::-1] if flip else expected
        expected = expected[::-1] if upside_down else expected
        difference = np.abs(_warp(image, matrix, fill_mode) - expected)
        if fill_mode == "constant":  # less than a pixel beyond the edge OpenCV blends what Keras fills
            difference[_just_outside(matrix, size)] = 0
        assert difference.max() < 0.05


def test_no_augmentation_is_the_identity(real_images):
    image = np.asarray(real_images[0].resize((64, 64)))
    [matrix] = sample_affine(Augmentation(), 0, 0, 1, 64)
    np.testing.assert_array_equal(matrix, np.eye(3))
    np.testing.assert_array_equal(_warp(image, matrix), image)


def test_width_shift_moves_along_the_columns():
    """The documented deviation from Keras, where width_shift_range moves along the rows."""
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 4] = 1
    assert _warp(image, make_affine_matrix(0, 2, 0, 1, 1, False, 9))[4, 2, 0] == 1


def test_parameters_are_distributed_as_kerass():
    size, n = 100, 10_000
    generator = ImageDataGenerator(rotation_range=30, width_shift_range=0.3, height_shift_range=0.3, zoom_range=0.3)
    theirs = [generator.get_random_transform((size, size, 3), seed=i) for i in range(n)]
    no_flip = Augmentation(30, 0.3, 0.3, 0.3)
    mine = [_parameters(matrix.astype(float), size) for matrix in sample_affine(no_flip, 0, 0, n, size)]
    for key, ours in zip(("theta", "tx", "ty", "zx", "zy"), np.transpose(mine), strict=True):
        assert kstest(ours, [t[key] for t in theirs]).pvalue > 1e-3, key


def _parameters(matrix, size):
    """Takes a matrix without flip apart again: angle in degrees, shifts in pixels, zooms."""
    zoom_x, zoom_y = np.hypot(*matrix[:2, 0]), np.hypot(*matrix[:2, 1])
    theta = np.arctan2(matrix[1, 0], matrix[0, 0])
    center = np.full(2, (size - 1) / 2)
    rotation = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    dx, dy = rotation.T @ (matrix[:2, :2] @ center + matrix[:2, 2] - center)
    return np.rad2deg(theta), dx, dy, zoom_x, zoom_y


def test_a_wrapped_image_comes_in_again_at_the_other_side():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    moved = _warp(image, make_affine_matrix(0, 1, 2, 1, 1, False, 4), "wrap")
    np.testing.assert_allclose(moved, np.roll(image, (-2, -1), (0, 1)), atol=1e-4)


def test_colors_change_as_said(real_images):
    image = np.asarray(real_images[0].resize((32, 32)), np.float32)

    def recolored(*factors):
        return recolor(image, make_color_matrix(*factors))

    gray = image @ np.array([0.299, 0.587, 0.114])
    mean = image.mean((0, 1))
    np.testing.assert_allclose(recolored(1, 1, 1, 0), image, atol=0.01)
    np.testing.assert_allclose(recolored(0.5, 1, 1, 0), image * 0.5, atol=0.01)
    np.testing.assert_allclose(recolored(1, 0.5, 1, 0), mean + 0.5 * (image - mean), atol=0.01)
    np.testing.assert_allclose(recolored(1, 1, 0, 0), np.repeat(gray[..., None], 3, 2), atol=0.5)
    np.testing.assert_allclose(recolored(1, 1, 1, 1), image, atol=0.01)
    half = recolored(1, 1, 0.2, 0.5)
    np.testing.assert_allclose(half @ [0.299, 0.587, 0.114], gray, atol=0.5)  # a turn keeps the luminance
    np.testing.assert_allclose(half - gray[..., None], -0.2 * (image - gray[..., None]), atol=1)
    assert recolored(1.5, 1.5, 1.5, 0).max() <= 255


@pytest.mark.parametrize("changes", ["brightness", "contrast", "saturation", "hue"])
def test_colors_are_drawn_from_their_range_and_only_theirs(changes):
    assert not ARTICLE.changes_color
    assert Augmentation(**{changes: 0.1}).changes_color
    drawn = sample_color(Augmentation(**{changes: 0.1}), 0, 0, 500)
    still = sample_color(Augmentation(), 0, 0, 5)
    np.testing.assert_allclose(still, np.broadcast_to(make_color_matrix(1, 1, 1, 0), still.shape))
    values = {"contrast": drawn[:, 3, 0], "brightness": drawn[:, :3].sum((1, 2)) / 3}.get(changes)
    if values is not None:
        assert kstest(values, "uniform", (0.9, 0.2)).pvalue > 1e-3
    else:
        np.testing.assert_allclose(drawn[:, :3].sum(2), 1, atol=1e-2)  # gray stays as it is
        assert len(np.unique(drawn[:, 0, 0])) == 500


def test_half_of_the_images_are_flipped():
    flips = np.linalg.det(sample_affine(ARTICLE, 0, 0, 2000, 64)) < 0
    assert 0.45 < np.mean(flips) < 0.55


def test_a_draw_depends_on_seed_epoch_and_index_alone():
    for draw in (lambda *key: sample_affine(ALL, *key, 64), lambda *key: sample_color(ALL, *key)):
        first = draw(0, 0, 5)
        np.testing.assert_array_equal(draw(0, 0, 9)[:5], first)  # whatever other examples there are
        for other in (draw(1, 0, 5), draw(0, 1, 5), draw(0, 0, 6)[1:]):
            assert not any(np.allclose(a, b) for a, b in zip(first, other, strict=True))


def test_pixels_are_resized_by_area_or_between_pixels():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    np.testing.assert_allclose(resize(image, (20, 20)), image.reshape(20, 2, 20, 2, 3).mean((1, 3)), atol=0.5)
    expected = tf.image.resize(image, (60, 60)).numpy()
    np.testing.assert_allclose(resize(image, (60, 60)), expected, atol=1)


def test_each_step_is_the_same_inside_tf_data(real_images):
    image = np.asarray(real_images[0])
    affine, color = sample_affine(ALL, 0, 0, 1, 48)[0], sample_color(ALL, 0, 0, 1)[0]
    steps = [
        (lambda x: resize(x, (48, 48)), image, tf.uint8),
        (lambda x: recolor(x, color), resize(image, (48, 48)).astype(np.float32), tf.float32),
        (lambda x: scale(x, (-1.0, 1.0)), image, tf.float32),
        (lambda x: change(x, affine[None], color[None], ALL, (-1.0, 1.0)), resize(image, (48, 48))[None], tf.float32),
    ]
    for step, given, kind in steps:
        dataset = tf.data.Dataset.from_tensors(given).map(lambda x, s=step, k=kind: tf.numpy_function(s, [x], k))
        np.testing.assert_array_equal(next(dataset.as_numpy_iterator()), step(given))
