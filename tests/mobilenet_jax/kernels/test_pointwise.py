import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilenet_jax.kernels.pointwise import pointwise_conv


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_values_and_gradients_are_those_of_the_plain_form(dtype, tolerance):
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (3, 5, 4, 6), dtype)
        kernel = jax.random.normal(keys[1], (6, 7), dtype)
        grad = jax.random.normal(keys[2], (3, 5, 4, 7), dtype)

        def compute(conv):
            out, pullback = jax.vjp(conv, x, kernel)
            return out, *pullback(grad)

        plain = compute(lambda x, k: jnp.einsum("nhwc,cf->nhwf", x, k))
        for fast, expected in zip(jax.jit(lambda: compute(pointwise_conv))(), plain, strict=True):
            assert fast.dtype == dtype
            np.testing.assert_allclose(fast, expected, rtol=tolerance, atol=tolerance)
