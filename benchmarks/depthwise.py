"""Measures the depthwise convolution in milliseconds: shifted against grouped, forward and with both gradients.

python -m benchmarks.depthwise > benchmarks/results/depthwise.md
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import jax
import jax.numpy as jnp

from mobilenet_jax.kernels.depthwise import Method, depthwise_conv

BATCH_SIZE = 16
ROUNDS = 5
METHODS: tuple[Method, ...] = ("grouped", "shifted")
# (height and width, channels, stride) of layers of MobileNet at alpha 1 and 224 x 224
LAYERS = ((112, 32, 1), (112, 64, 2), (56, 128, 1), (28, 256, 1), (14, 512, 1), (7, 1024, 1))


def make_functions(method: Method, stride: int) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """Returns the jitted convolution and its jitted gradients, as functions of input and kernel."""
    padding = ((1, 1), (1, 1)) if stride == 1 else ((0, 1), (0, 1))

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return depthwise_conv(x, kernel, stride, padding, method)

    return jax.jit(forward), jax.jit(jax.grad(lambda x, k: jnp.square(forward(x, k)).sum(), (0, 1)))


def measure_milliseconds(function: Callable[..., jax.Array], *args: jax.Array) -> float:
    """Measures one call."""
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Prints a table."""
    print("`python -m benchmarks.depthwise`\n")
    print(f"jax {version('jax')}, Python {platform.python_version()}, {jax.default_backend()}, {os.cpu_count()} cores, "
          f"batch {BATCH_SIZE}, float32, median of {ROUNDS} alternating rounds, milliseconds\n")  # fmt: skip
    print("| input | grouped: forward | gradients | shifted: forward | gradients |\n|---|---|---|---|---|")
    for size, channels, stride in LAYERS:
        keys = jax.random.split(jax.random.key(0))
        x = jax.random.normal(keys[0], (BATCH_SIZE, size, size, channels))
        kernel = jax.random.normal(keys[1], (3, 3, 1, channels))
        functions = [function for method in METHODS for function in make_functions(method, stride)]
        for function in functions:
            measure_milliseconds(function, x, kernel)  # compiles
        rounds = [[measure_milliseconds(function, x, kernel) for function in functions] for _ in range(ROUNDS)]
        medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
        print(f"| {size} x {size} x {channels}, stride {stride} | {' | '.join(f'{m:.1f}' for m in medians)} |")


if __name__ == "__main__":
    main()
