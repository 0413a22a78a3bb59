"""The choice between two forms of an operation, by the platform that a program is lowered for."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

Operation = Callable[..., jax.Array]


def choose_by_platform(*, cpu: Operation, default: Operation) -> Operation:
    """Returns an operation that is `cpu` in programs for a CPU and `default` in programs for other platforms.

    The gradient uses the form that is chosen for the platform. (That of `lax.platform_dependent` would save the
    intermediate results of all forms.)

    Args:
        cpu: a differentiable function of arrays.
        default: a function with the same results.
    """

    @jax.custom_vjp
    def operation(*args: jax.Array) -> jax.Array:
        result: jax.Array = lax.platform_dependent(*args, cpu=cpu, default=default)
        return result

    def forward(*args: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return operation(*args), args

    def backward(args: tuple[jax.Array, ...], grad: jax.Array) -> Any:
        return lax.platform_dependent(args, grad, cpu=_differentiate(cpu), default=_differentiate(default))

    operation.defvjp(forward, backward)
    return operation


def _differentiate(operation: Operation) -> Callable[[tuple[jax.Array, ...], jax.Array], Any]:
    return lambda args, grad: jax.vjp(operation, *args)[1](grad)
