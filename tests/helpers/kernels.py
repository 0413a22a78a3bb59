"""Comparison of the kernels with their plain twins."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

TOLERANCES = {"float32": 1e-5, "float64": 1e-10}


def assert_equal_with_gradients(
    fast: Callable[..., jax.Array], plain: Callable[..., jax.Array], shapes: Sequence[tuple[int, ...]], dtype: str
) -> None:
    """Asserts that two functions of normally distributed arrays are equal, and their gradients too.

    The gradients are those of a random weighting of the result. `fast` is compiled, `plain` is not.
    """
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), len(shapes) + 1)
        args = [jax.random.normal(key, shape, dtype) for key, shape in zip(keys[1:], shapes, strict=True)]

        def compute(function: Callable[..., jax.Array]) -> Any:
            out, pullback = jax.vjp(function, *args)
            return out, *pullback(jax.random.normal(keys[0], out.shape, dtype))

        for own, expected in zip(jax.jit(lambda: compute(fast))(), compute(plain), strict=True):
            assert own.dtype == dtype
            assert own.shape == expected.shape
            tolerance = TOLERANCES[dtype] * max(1, np.abs(expected).max())
            np.testing.assert_allclose(own, expected, rtol=0, atol=tolerance)


def lower(function: Callable[..., jax.Array], shapes: Sequence[tuple[int, ...]], platform: str) -> str:
    """Returns the program of a function and its gradients, lowered for a platform that need not be there."""
    args = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    compute = jax.value_and_grad(lambda *args: function(*args).sum(), tuple(range(len(args))))
    return jax.jit(compute).trace(*args).lower(lowering_platforms=(platform,)).as_text()
