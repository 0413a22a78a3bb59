import functools

import jax.numpy as jnp
import pytest

from mobilenet_jax.kernels.stem import stem_conv
from tests.helpers.kernels import assert_equal_with_gradients, lower


def convolve(x, kernel):
    """Sums over the nine positions in the kernel."""
    rows, columns = (x.shape[1] - 1) // 2, (x.shape[2] - 1) // 2
    taps = (
        x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    return functools.reduce(jnp.add, taps)


@pytest.mark.parametrize(
    ("size", "dtype"), [((9, 9), "float32"), ((8, 8), "bfloat16"), ((7, 12), "float64"), ((3, 4), "float64")]
)
def test_values_and_gradients_are_those_of_the_plain_form(size, dtype):
    patches = functools.partial(stem_conv, method="patches")
    assert_equal_with_gradients(patches, convolve, [(2, *size, 3), (3, 3, 3, 5)], dtype)


def test_the_convolution_is_equal_to_the_plain_form():
    convolution = functools.partial(stem_conv, method="convolution")
    assert_equal_with_gradients(convolution, convolve, [(2, 8, 9, 3), (3, 3, 3, 5)], "float32")


@pytest.mark.parametrize(("platform", "is_convolution"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_the_form_depends_on_the_platform_that_a_program_is_lowered_for(platform, is_convolution):
    program = lower(stem_conv, [(2, 9, 9, 3), (3, 3, 3, 4)], platform)
    assert ("stablehlo.convolution" in program) == is_convolution
    assert ("stablehlo.concatenate" in program) != is_convolution  # of the patches


def test_a_wrong_method_is_named():
    with pytest.raises(ValueError, match="'fast'"):
        stem_conv(jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 3, 4)), "fast")
