import numpy as np
import pytest
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from scipy.stats import kstest

from input_pipeline.augment import Augmentation, make_color_matrix, sample_affine, sample_color

ARTICLE = Augmentation(rotation=30, width_shift=0.3, height_shift=0.3, zoom=0.3, horizontal_flip=True)
ALL = Augmentation(30, 0.3, 0.3, 0.3, 20, True, True, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)


def test_the_default_augmentation_is_the_identity():
    [matrix] = sample_affine(Augmentation(), 0, 0, 1, 64)
    np.testing.assert_array_equal(matrix, np.eye(3))


def test_parameters_are_distributed_like_those_of_keras():
    size, n = 100, 10_000
    generator = ImageDataGenerator(rotation_range=30, width_shift_range=0.3, height_shift_range=0.3, zoom_range=0.3)
    theirs = [generator.get_random_transform((size, size, 3), seed=i) for i in range(n)]
    no_flip = Augmentation(30, 0.3, 0.3, 0.3)
    ours = [_decompose(matrix.astype(float), size) for matrix in sample_affine(no_flip, 0, 0, n, size)]
    for key, values in zip(("theta", "tx", "ty", "zx", "zy"), np.transpose(ours), strict=True):
        assert kstest(values, [t[key] for t in theirs]).pvalue > 1e-3, key


def _decompose(matrix, size):
    """Returns the angle in degrees, the shifts in pixels and the zooms of a matrix without flip."""
    zoom_x, zoom_y = np.hypot(*matrix[:2, 0]), np.hypot(*matrix[:2, 1])
    theta = np.arctan2(matrix[1, 0], matrix[0, 0])
    center = np.full(2, (size - 1) / 2)
    rotation = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    dx, dy = rotation.T @ (matrix[:2, :2] @ center + matrix[:2, 2] - center)
    return np.rad2deg(theta), dx, dy, zoom_x, zoom_y


@pytest.mark.parametrize("changes", ["brightness", "contrast", "saturation", "hue"])
def test_each_color_range_affects_its_own_parameter_only(changes):
    assert not ARTICLE.changes_color
    assert Augmentation(**{changes: 0.1}).changes_color
    sampled = sample_color(Augmentation(**{changes: 0.1}), 0, 0, 500)
    unchanged = sample_color(Augmentation(), 0, 0, 5)
    np.testing.assert_allclose(unchanged, np.broadcast_to(make_color_matrix(1, 1, 1, 0), unchanged.shape))
    values = {"contrast": sampled[:, 3, 0], "brightness": sampled[:, :3].sum((1, 2)) / 3}.get(changes)
    if values is not None:
        assert kstest(values, "uniform", (0.9, 0.2)).pvalue > 1e-3
    else:
        np.testing.assert_allclose(sampled[:, :3].sum(2), 1, atol=1e-2)  # gray stays as it is
        assert len(np.unique(sampled[:, 0, 0])) == 500


def test_half_of_the_images_are_flipped():
    flips = np.linalg.det(sample_affine(ARTICLE, 0, 0, 2000, 64)) < 0
    assert 0.45 < np.mean(flips) < 0.55


def test_parameters_depend_on_seed_epoch_and_index_alone():
    for sample in (lambda *key: sample_affine(ALL, *key, 64), lambda *key: sample_color(ALL, *key)):
        first = sample(0, 0, 5)
        np.testing.assert_array_equal(sample(0, 0, 9)[:5], first)  # regardless of the number of examples
        for other in (sample(1, 0, 5), sample(0, 1, 5), sample(0, 0, 6)[1:]):
            assert not any(np.allclose(a, b) for a, b in zip(first, other, strict=True))
