"""Mixing of pairs of images. Its independence of the number of devices is shown by tests/e2e/test_devices.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from mobilenet_jax.training.mixing import Mixing, make_box, mix_examples

LABELS = np.array([0, 1, 2, 1], np.int32)
IMAGES = np.broadcast_to(np.arange(1, 5, dtype=np.float32)[:, None, None, None], (4, 8, 12, 3))


@functools.partial(jax.jit, static_argnums=0)
def _mix(mixing, key):
    return mix_examples(mixing, key, jnp.array(IMAGES), LABELS, 3)


def _mix_many(mixing, n):
    return [[np.asarray(x) for x in _mix(mixing, key)] for key in jax.random.split(jax.random.key(0), n)]


def test_nothing_is_mixed_without_factors():
    images, labels = mix_examples(Mixing(), jax.random.key(0), IMAGES, LABELS, 3)
    assert images is IMAGES
    assert labels is LABELS


def test_mixup_blends_images_and_labels_with_the_same_share():
    shares = []
    for images, targets in _mix_many(Mixing(mixup=0.4), 300):
        share = targets[0, 0]
        shares.append(share)
        np.testing.assert_allclose(images, share * IMAGES + (1 - share) * IMAGES[::-1], rtol=1e-5)
        one_hot = np.eye(3)[LABELS]
        np.testing.assert_allclose(targets, share * one_hot + (1 - share) * one_hot[::-1], atol=1e-6)
    assert kstest(shares, "beta", (0.4, 0.4)).pvalue > 1e-3


def test_cutmix_replaces_a_rectangle_and_counts_its_pixels():
    seen = set()
    for images, targets in _mix_many(Mixing(cutmix=1.0), 50):
        replaced = images[0, :, :, 0] == IMAGES[3, 0, 0, 0]
        rows, columns = replaced.any(1), replaced.any(0)
        np.testing.assert_array_equal(replaced, rows[:, None] & columns)
        assert (np.diff(np.flatnonzero(rows)) == 1).all()
        np.testing.assert_array_equal(images[0][~replaced], IMAGES[0][~replaced])
        assert targets[0, 0] == pytest.approx(1 - replaced.mean(), abs=1e-6)
        np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
        seen.add(int(replaced.sum()))
    assert len(seen) > 10


def test_a_box_covers_its_share_of_the_area_where_it_lies_within_the_image():
    boxes = [make_box(key, 0.75, (40, 60)) for key in jax.random.split(jax.random.key(0), 100)]
    areas = np.array([box.mean() for box in boxes])
    assert areas.max() == pytest.approx(0.25, abs=0.02)
    assert areas.min() < 0.2  # cut at an edge


def test_each_step_uses_one_of_two_kinds():
    both = [
        len(np.unique(images[0])) == 1
        for images, targets in _mix_many(Mixing(1.0, 1.0), 200)
        if 0.1 < targets[0, 0] < 0.9
    ]
    assert 0.3 < np.mean(both) < 0.7  # mixup gives constant images, CutMix two values
