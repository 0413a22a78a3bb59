import numpy as np
import pytest
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from scipy.stats import kstest

from input_pipeline.augment import (
    Augmentation,
    make_color_matrix,
    make_crop_matrix,
    sample_affine,
    sample_color,
    select_operations,
)

ARTICLE = Augmentation(rotation=30, width_shift=0.3, height_shift=0.3, zoom=0.3, horizontal_flip=True)
ALL = Augmentation(30, 0.3, 0.3, 0.3, 20, True, True, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)
CROPPED = Augmentation(30, 0.3, hue=0.1, saturation=0.2, crop_area=0.3, crop_ratio=1.5, operations=2)


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


def test_saturation_and_hue_have_their_configured_ranges():
    gray = make_color_matrix(1, 1, 0, 0)[0, 0]  # the weight of red in the luminance
    saturation = (sample_color(Augmentation(saturation=0.3), 0, 0, 2000)[:, 0, 0] - gray) / (1 - gray)
    assert kstest(saturation, "uniform", (0.7, 0.6)).pvalue > 1e-3
    trace = sample_color(Augmentation(hue=0.1), 0, 0, 2000)[:, :3].trace(axis1=1, axis2=2)  # of a rotation: 1 + 2 cos
    assert kstest(np.arccos((trace - 1) / 2) / (2 * np.pi), "uniform", (0, 0.1)).pvalue > 1e-3


@pytest.mark.parametrize(("horizontal", "vertical"), [(True, False), (False, True), (True, True)])
def test_images_are_mirrored_along_the_configured_axes_half_of_the_time(horizontal, vertical):
    matrices = sample_affine(Augmentation(horizontal_flip=horizontal, vertical_flip=vertical), 0, 0, 4000, 64)
    mirrored = matrices[:, [0, 1], [0, 1]] < 0
    np.testing.assert_allclose(mirrored.mean(0), [horizontal / 2, vertical / 2], atol=0.04)
    np.testing.assert_allclose(mirrored.all(1).mean(), horizontal * vertical / 4, atol=0.04)


def test_zooms_of_the_axes_are_independent_and_shears_have_their_range():
    matrices = sample_affine(Augmentation(zoom=0.3, shear=20), 0, 0, 5000, 64).astype(float)
    zoom_x, shear = matrices[:, 0, 0], np.arctan2(-matrices[:, 0, 1], matrices[:, 1, 1])
    zoom_y = matrices[:, 1, 1] / np.cos(shear)
    assert kstest(np.rad2deg(shear), "uniform", (-20, 40)).pvalue > 1e-3
    assert kstest(zoom_y, "uniform", (0.7, 0.6)).pvalue > 1e-3
    assert np.abs(np.corrcoef([zoom_x, zoom_y, shear]) - np.eye(3)).max() < 0.06


def test_parameters_depend_on_seed_epoch_and_index_alone():
    samplers = [lambda *key: sample_affine(ALL, *key, 64), lambda *key: sample_color(ALL, *key)]
    samplers += [lambda *key: sample_affine(CROPPED, *key, 64), lambda *key: select_operations(CROPPED, *key).T]
    for sample in samplers:
        first = sample(0, 0, 5)
        np.testing.assert_array_equal(sample(0, 0, 9)[:5], first)  # regardless of the number of examples
        for other in (sample(1, 0, 5), sample(0, 1, 5), sample(0, 0, 6)[1:]):
            assert not all(np.allclose(a, b) for a, b in zip(first, other, strict=True))


def test_a_crop_maps_the_edges_of_the_output_to_those_of_the_part():
    matrix = make_crop_matrix(area=0.25, ratio=4.0, x=0.5, y=1.0, size=100).astype(float)  # all columns, lowest quarter
    corners = np.array([[-0.5, -0.5, 1], [99.5, 99.5, 1]]).T
    np.testing.assert_allclose(matrix @ corners, np.array([[-0.5, 74.5, 1], [99.5, 99.5, 1]]).T, atol=1e-4)
    tall = make_crop_matrix(
        area=0.9, ratio=0.5, x=0.3, y=0.3, size=100
    )  # does not fit: cut at the upper and lower edge
    np.testing.assert_allclose(np.diag(tall), [np.sqrt(0.45), 1, 1], rtol=1e-6)


def test_crops_have_the_configured_areas_and_ratios_and_lie_within_the_image():
    matrices = sample_affine(Augmentation(crop_area=0.4, crop_ratio=1.25), 0, 0, 10_000, 100).astype(float)
    width, height = matrices[:, 0, 0], matrices[:, 1, 1]
    square = sample_affine(Augmentation(crop_area=0.4), 0, 0, 10_000, 100)
    assert kstest(square[:, 0, 0] * square[:, 1, 1], "uniform", (0.4, 0.6)).pvalue > 1e-3
    inside = (width < 1) & (height < 1)
    assert np.log(width / height)[inside].min() < -0.2
    assert (np.abs(np.log(width / height)) <= np.log(1.25) + 1e-6).all()
    left, top = matrices[:, 0, 2] - width / 2, matrices[:, 1, 2] - height / 2
    assert min(left.min(), top.min()) >= -0.5 - 1e-4
    assert max((left + 100 * width).max(), (top + 100 * height).max()) <= 99.5 + 1e-4
    positions = [(start[inside] + 0.5) / (100 * (1 - side[inside])) for start, side in ((left, width), (top, height))]
    assert all(kstest(position, "uniform").pvalue > 1e-3 for position in positions)
    assert abs(np.corrcoef(positions)[0, 1]) < 0.06


def test_a_ratio_alone_crops_too():
    matrices = sample_affine(Augmentation(crop_ratio=1.5), 0, 0, 100, 64)
    assert (np.minimum(matrices[:, 0, 0], matrices[:, 1, 1]) < 0.99).mean() > 0.9


def test_crops_are_parts_of_the_warped_image():
    both = sample_affine(Augmentation(30, 0.3, crop_area=0.3), 0, 0, 50, 64)
    warps, crops = (sample_affine(one, 0, 0, 50, 64) for one in (Augmentation(30, 0.3), Augmentation(crop_area=0.3)))
    np.testing.assert_allclose(both, warps @ crops, atol=1e-4)


def test_the_configured_number_of_operations_changes_each_image():
    selected = select_operations(CROPPED, 0, 0, 20_000)
    np.testing.assert_array_equal(selected.sum(0), 2)
    np.testing.assert_allclose(selected.mean(1)[[0, 1, 7, 8]], 0.5, atol=0.02)  # those with a range
    assert not selected[[2, 3, 4, 5, 6]].any()
    assert select_operations(ALL, 0, 0, 3).all()
    only_one = Augmentation(30, 0.3, saturation=0.2, operations=1)
    turned = ~np.isclose(sample_affine(only_one, 0, 0, 1000, 64)[:, 0, 1], 0)
    shifted = ~np.isclose(sample_affine(only_one, 0, 0, 1000, 64)[:, 0, 2], 0) & ~turned
    recolored = ~np.isclose(sample_color(only_one, 0, 0, 1000)[:, 0, 1], 0)
    np.testing.assert_array_equal(turned.astype(int) + shifted + recolored, 1)
