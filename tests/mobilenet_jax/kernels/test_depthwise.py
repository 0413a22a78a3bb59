import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilenet_jax.kernels.depthwise import depthwise_conv
from tests.helpers.kernels import assert_equal_with_gradients, lower

PADDINGS = {1: ((1, 1), (1, 1)), 2: ((0, 1), (0, 1))}
SHAPES = [(2, 4, 4, 2), (3, 3, 1, 2)]


def convolve(x, kernel, stride, padding):
    """Sums over the nine positions in the kernel."""
    xp = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = (size - 2 for size in xp.shape[1:3])
    taps = (xp[:, i : i + rows, j : j + columns] * kernel[i : i + 1, j : j + 1] for i in range(3) for j in range(3))
    return functools.reduce(jnp.add, taps)[:, ::stride, ::stride]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("size", "batch", "dtype"),
    [((8, 8), 6, "float64"), ((7, 7), 6, "float32"), ((7, 8), 5, "bfloat16"), ((9, 6), 1, "float64"),
     ((5, 12), 1, "float32"), ((2, 3), 6, "float64")],
)  # fmt: skip
def test_values_and_gradients_are_those_of_the_plain_form(stride, size, batch, dtype):
    padding = PADDINGS[stride]
    fast = partial(depthwise_conv, stride=stride, padding=padding, method="shifted")
    plain = partial(convolve, stride=stride, padding=padding)
    assert_equal_with_gradients(fast, plain, [(batch, *size, 5), (3, 3, 1, 5)], dtype)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_grouped_form_is_equal_to_the_plain_one(stride):
    padding = PADDINGS[stride]
    grouped = partial(depthwise_conv, stride=stride, padding=padding, method="grouped")
    plain = partial(convolve, stride=stride, padding=padding)
    assert_equal_with_gradients(grouped, plain, [(2, 9, 6, 5), (3, 3, 1, 5)], "float32")


def test_kernel_gradient_does_not_depend_on_the_images_per_pass(monkeypatch):
    x = jax.random.normal(jax.random.key(0), (7, 5, 5, 3))  # not a multiple of the images per pass
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 3))

    def compute_gradient(bytes_per_pass):
        monkeypatch.setattr("mobilenet_jax.kernels.depthwise._BYTES_PER_PASS", bytes_per_pass)
        loss = lambda k: jnp.sin(depthwise_conv(x, k, 1, PADDINGS[1], "shifted")).sum()  # noqa: E731
        return jax.grad(loss)(kernel)

    whole = compute_gradient(1 << 30)
    for images in (1, 2, 4):  # three at most: there are two passes or more
        np.testing.assert_allclose(compute_gradient(images * x.nbytes // 7), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("platform", "is_grouped"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_the_form_depends_on_the_platform_that_a_program_is_lowered_for(platform, is_grouped):
    programs = {
        method: lower(partial(depthwise_conv, stride=1, padding=PADDINGS[1], method=method), SHAPES, platform)
        for method in ("auto", "shifted", "grouped")
    }
    assert ("stablehlo.convolution" in programs["auto"]) == is_grouped
    assert ("stablehlo.while" in programs["auto"]) != is_grouped  # the passes of the shifted form
    assert "stablehlo.convolution" in programs["grouped"]
    assert "stablehlo.convolution" not in programs["shifted"]


@pytest.mark.parametrize(
    ("kernel", "stride", "method", "message"),
    [((3, 3, 2, 1), 1, "auto", "(3, 3, 1, 2)"), ((3, 3, 1, 2), 3, "auto", "3"), ((3, 3, 1, 2), 1, "fast", "'fast'")],
)
def test_wrong_arguments_are_named(kernel, stride, method, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        depthwise_conv(jnp.ones((1, 4, 4, 2)), jnp.ones(kernel), stride, PADDINGS[1], method)
