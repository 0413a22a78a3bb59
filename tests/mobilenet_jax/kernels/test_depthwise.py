import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilenet_jax.kernels.depthwise import depthwise_conv

PADDINGS = {1: ((1, 1), (1, 1)), 2: ((0, 1), (0, 1))}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (9, 6), (5, 12), (2, 3)])
@pytest.mark.parametrize("batch", [1, 6])
def test_shifted_and_grouped_are_equal_in_value_and_gradients(stride, size, batch):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, *size, 5))
    kernel = jax.random.normal(keys[1], (3, 3, 1, 5))

    def compute(method):
        out, pullback = jax.vjp(lambda x, k: depthwise_conv(x, k, stride, PADDINGS[stride], method), x, kernel)
        return out, *pullback(jax.random.normal(keys[2], out.shape))

    for shifted, grouped in zip(jax.jit(compute, static_argnums=0)("shifted"), compute("grouped"), strict=True):
        assert shifted.shape == grouped.shape
        np.testing.assert_allclose(shifted, grouped, rtol=1e-5, atol=1e-5)


def test_kernel_gradient_does_not_depend_on_the_images_per_pass(monkeypatch):
    x = jax.random.normal(jax.random.key(0), (6, 5, 5, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 3))

    def compute_gradient(bytes_per_pass):
        monkeypatch.setattr("mobilenet_jax.kernels.depthwise._BYTES_PER_PASS", bytes_per_pass)
        loss = lambda k: jnp.sin(depthwise_conv(x, k, 1, PADDINGS[1], "shifted")).sum()  # noqa: E731
        return jax.grad(loss)(kernel)

    whole = compute_gradient(1 << 30)
    for images in (1, 2, 4):  # 6 is not divisible by 4, so a pass takes three
        np.testing.assert_allclose(compute_gradient(images * x.nbytes // 6), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("platform", "is_grouped"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_the_form_depends_on_the_platform_that_a_program_is_lowered_for(platform, is_grouped):
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))

    def lower(method):
        compute = jax.value_and_grad(lambda x, k: depthwise_conv(x, k, 1, PADDINGS[1], method).sum(), (0, 1))
        return jax.jit(compute).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()

    assert ("stablehlo.convolution" in lower("auto")) == is_grouped
    assert ("stablehlo.while" in lower("auto")) != is_grouped  # the passes of the shifted form
    assert "stablehlo.convolution" in lower("grouped")
    assert "stablehlo.convolution" not in lower("shifted")


@pytest.mark.parametrize(
    ("kernel", "stride", "method", "message"),
    [((3, 3, 2, 1), 1, "auto", "(3, 3, 1, 2)"), ((3, 3, 1, 2), 3, "auto", "3"), ((3, 3, 1, 2), 1, "fast", "'fast'")],
)
def test_wrong_arguments_are_named(kernel, stride, method, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        depthwise_conv(jnp.ones((1, 4, 4, 2)), jnp.ones(kernel), stride, PADDINGS[1], method)
