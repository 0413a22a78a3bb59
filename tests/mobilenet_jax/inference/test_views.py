import jax.numpy as jnp
import numpy as np

from mobilenet_jax.inference.views import MAX_VIEWS, apply_view, count_views


def test_the_eight_views_are_distinct_permutations_of_the_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    views = [np.asarray(apply_view(jnp.asarray(pixels), i)) for i in range(MAX_VIEWS)]
    np.testing.assert_array_equal(views[0], pixels)
    assert len({view.tobytes() for view in views}) == MAX_VIEWS == 8
    assert {np.sort(view, axis=None).tobytes() for view in views} == {np.sort(pixels, axis=None).tobytes()}


def test_views_that_are_counted_keep_the_image_size():
    for size in ((32, 32), (32, 64)):
        images = jnp.zeros((1, *size, 3))
        assert all(apply_view(images, i).shape == images.shape for i in range(count_views(size)))
    assert count_views((32, 32)) == 8
    assert count_views((32, 64)) == 4
