import jax
import numpy as np
import pytest

from mobilenet_jax.model.inference import apply_in_parts
from mobilenet_jax.model.mobilenet import MobileNet


@pytest.mark.parametrize(("images_per_part", "head", "loops"), [(1, "small", True), (5, None, True), (7, None, False)])
def test_parts_of_a_batch_have_the_outputs_of_the_whole(monkeypatch, images_per_part, head, loops):
    model, images = MobileNet(0.25, head), jax.random.uniform(jax.random.key(0), (7, 32, 40, 3))
    variables = jax.jit(lambda: model.init(jax.random.key(1), images, train=False))()
    monkeypatch.setattr("mobilenet_jax.model.inference._BYTES_PER_PART", images_per_part * 4 * 16 * 16 * 20)
    function = lambda images: model.apply(variables, images, train=False)  # noqa: E731
    compute = jax.jit(lambda images: apply_in_parts(function, images, model))
    expected = jax.jit(function)(images)
    np.testing.assert_allclose(compute(images), expected, rtol=1e-4, atol=1e-5)
    assert ("stablehlo.while" in compute.trace(images).lower(lowering_platforms=("cpu",)).as_text()) == loops
    assert "stablehlo.while" not in compute.trace(images).lower(lowering_platforms=("cuda",)).as_text()
