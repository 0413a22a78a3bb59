import jax
import numpy as np
import pytest

from input_pipeline import image_ops
from mobilenet_jax.model.preprocessing import remove_color_cast

RANDOM = np.random.default_rng(0).integers(0, (256, 180, 90), (4, 40, 50, 3), np.uint8)


@pytest.mark.parametrize("pixels", [RANDOM, RANDOM // 64, RANDOM * np.uint8([1, 1, 0]), np.zeros_like(RANDOM)])
def test_the_color_cast_is_removed_as_from_files(pixels):
    expected = np.stack([image_ops.remove_color_cast(image) for image in pixels])
    corrected = np.asarray(jax.jit(remove_color_cast)(pixels))
    assert np.abs(corrected - expected).max() <= 1
    assert (corrected != expected).mean() < 1e-3
    np.testing.assert_array_equal(corrected, np.round(corrected))
