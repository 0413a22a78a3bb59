import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilenet_jax.kernels.normalization import normalize_batch, relu6
from tests.helpers.kernels import TOLERANCES, assert_equal_with_gradients

EPSILON = 1e-3


def normalize_plainly(x, scale, bias):
    mean, variance = (statistic((0, 1, 2), keepdims=True) for statistic in (x.mean, x.var))
    scale, bias = (v.reshape(1, 1, 1, -1) for v in (scale, bias))
    return (x - mean) / jnp.sqrt(variance + EPSILON) * scale + bias


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_values_and_gradients_are_those_of_the_plain_form(dtype):
    fast = lambda *args: normalize_batch(*args, EPSILON).values  # noqa: E731
    assert_equal_with_gradients(fast, normalize_plainly, [(4, 5, 3, 6), (6,), (6,)], dtype)


def test_statistics_are_those_of_flax():
    x = 5 + jax.random.normal(jax.random.key(0), (4, 5, 3, 6))
    norm = nn.BatchNorm(use_running_average=False, momentum=0.0, epsilon=EPSILON)
    _, expected = norm.init_with_output(jax.random.key(0), x)
    _, updated = norm.apply(expected, x, mutable=["batch_stats"])
    _, mean, variance = normalize_batch(x, jnp.ones(6), jnp.zeros(6), EPSILON)
    np.testing.assert_allclose(mean, updated["batch_stats"]["mean"], rtol=1e-5)
    np.testing.assert_allclose(variance, updated["batch_stats"]["var"], rtol=1e-5)


def test_the_variance_of_constant_channels_is_not_negative():
    constants = np.linspace(100, 200, 64, dtype=np.float32)
    x = jnp.tile(constants, (3, 5, 7, 1))
    raw = jax.jit(lambda x: jnp.square(x).mean((0, 1, 2)) - jnp.square(x.mean((0, 1, 2))))(x)
    assert (raw < 0).any(), "rounding makes the difference of the two means negative"
    values, _, variance = jax.jit(lambda x: normalize_batch(x, jnp.ones(64), jnp.full(64, 0.25), EPSILON))(x)
    assert (variance >= 0).all()
    assert np.isfinite(values).all()


def test_low_precision_is_summed_in_float32():
    x = 1 + jax.random.normal(jax.random.key(0), (8, 32, 32, 2)).astype(jnp.bfloat16)
    values, mean, variance = normalize_batch(x, jnp.ones(2), jnp.zeros(2), EPSILON)
    assert (values.dtype, mean.dtype, variance.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    np.testing.assert_allclose(mean, np.asarray(x, np.float64).mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(variance, np.asarray(x, np.float64).var((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_relu6_is_that_of_jax(dtype):
    assert_equal_with_gradients(
        lambda x: relu6(8 * x), lambda x: jnp.minimum(jnp.maximum(8 * x, 0), 6), [(8, 5)], dtype
    )


def test_relu6_has_no_gradient_at_its_limits():
    gradients = jax.vmap(jax.grad(relu6))(jnp.array([-1.0, 0.0, 0.5, 6.0, 7.0]))
    np.testing.assert_array_equal(gradients, [0, 0, 1, 0, 0])
