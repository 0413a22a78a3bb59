import jax.numpy as jnp
import pytest

from mobilenet_jax.kernels.pointwise import pointwise_conv
from tests.helpers.kernels import TOLERANCES, assert_equal_with_gradients


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_values_and_gradients_are_those_of_the_plain_form(dtype):
    plain = lambda x, k: jnp.einsum("nhwc,cf->nhwf", x, k)  # noqa: E731
    assert_equal_with_gradients(pointwise_conv, plain, [(3, 5, 4, 6), (6, 7)], dtype)
