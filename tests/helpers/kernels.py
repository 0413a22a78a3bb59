"""Comparison of the kernels with their reference implementations."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TOLERANCES = {"float32": 1e-5, "float64": 1e-10, "bfloat16": 0.03}


def assert_equal_with_gradients(
    fast: Callable[..., jax.Array], plain: Callable[..., jax.Array], shapes: Sequence[tuple[int, ...]], dtype: str
) -> None:
    """Asserts that two functions of normally distributed arrays are equal, and their gradients too.

    The gradients are those of a random weighting of the result. `fast` is compiled, `plain` is not, and computes in
    float32 at least. The tolerance of bfloat16 is relative to the largest value.
    """
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), len(shapes) + 1)
        args = [jax.random.normal(key, shape, dtype) for key, shape in zip(keys[1:], shapes, strict=True)]

        def compute(function: Callable[..., jax.Array], args: Sequence[jax.Array]) -> Any:
            out, pullback = jax.vjp(function, *args)
            return out, *pullback(jax.random.normal(keys[0], out.shape, dtype).astype(out.dtype))

        exact = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in args]
        tolerance = TOLERANCES[dtype]
        for own, expected in zip(jax.jit(lambda: compute(fast, args))(), compute(plain, exact), strict=True):
            assert own.dtype == dtype
            assert own.shape == expected.shape
            scale = float(np.abs(expected).max()) if dtype == "bfloat16" else 1
            np.testing.assert_allclose(own.astype(expected.dtype), expected, rtol=tolerance, atol=scale * tolerance)


def lower(function: Callable[..., jax.Array], shapes: Sequence[tuple[int, ...]], platform: str) -> str:
    """Returns the program of a function and its gradients, lowered for a platform that need not be there."""
    args = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    compute = jax.value_and_grad(lambda *args: function(*args).sum(), tuple(range(len(args))))
    return jax.jit(compute).trace(*args).lower(lowering_platforms=(platform,)).as_text()
