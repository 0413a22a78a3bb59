"""Measures where the time of a training step goes, by layer type and pass, and the least time that it could take.

    python -m benchmarks.step_profile > benchmarks/results/step_profile.md

The article's head, alpha 1.0, 224 x 224, batch 32, float32, random images. The times are those of XLA's operations,
summed over threads that run at the same time, so their sum exceeds the duration of the step. The bound of an operation
is the larger of two times: that of its floating-point operations at the measured speed of a matrix product, and that of
reading its inputs and writing its results once each, at the measured speed of a copy.
"""

import argparse
import collections
import glob
import gzip
import json
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version

import jax
import jax.numpy as jnp

from benchmarks.train_step import BATCH_SIZE, compile_step
from mobilenet_jax.cli.malloc import configure_malloc
from mobilenet_jax.model.mobilenet import BLOCKS

SIZE, STEPS = 224, 5
_LAYERS = {
    "depthwise": r"conv_dw_\d+(/|$)|conv_pad",
    "pointwise": r"conv_pw_\d+(/|$)",
    "batch normalization": r"_bn\b",
    "ReLU6": "_relu",
    "stem": r"conv1(_pad)?\b",
    "head": "Head|dense|dropout|predictions",
}


def main() -> None:
    """Prints the tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    configure_malloc()
    compiled, state, batch = compile_step(1.0, SIZE)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            state, result, _ = compiled(state, batch, jnp.float32(1))
        jax.block_until_ready(result)
        with jax.profiler.trace(folder):
            start = time.perf_counter()
            for _ in range(STEPS):
                state, result, _ = compiled(state, batch, jnp.float32(1))
                jax.block_until_ready(result)
            seconds = (time.perf_counter() - start) / STEPS
        times = sum_times(folder, compiled.as_text())
    print("# Profile of the training step\n\n`python -m benchmarks.step_profile`\n")
    print(f"jax {version('jax')}, Python {platform.python_version()}, {os.cpu_count()} CPU cores\n")
    print(f"A step takes {1e3 * seconds:.0f} ms while it is profiled.\n")
    print("| operations | pass | ms, summed over threads |\n|---|---|---|")
    for (layer, direction), milliseconds in times.most_common():
        print(f"| {layer} | {direction} | {milliseconds / STEPS:.1f} |")
    print_bounds()


def sum_times(folder: str, program: str) -> collections.Counter[tuple[str, str]]:
    """Returns the milliseconds of a trace by layer type and pass.

    Args:
        folder: a trace of `jax.profiler`.
        program: the compiled program, whose metadata name the layer of each operation.
    """
    layers = {}
    for line in program.splitlines():
        name = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
        source = re.search(r'op_name="([^"]*)"', line)
        if name:
            layers[name[1]] = _classify(source[1] if source else "")
    times: collections.Counter[tuple[str, str]] = collections.Counter()
    [file] = glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True)
    with gzip.open(file) as stream:
        for event in json.load(stream)["traceEvents"]:
            operation = event.get("args", {}).get("hlo_op")
            if event.get("ph") == "X" and operation and not operation.startswith(("while", "call")):
                times[layers.get(operation, ("other", ""))] += event["dur"] / 1e3
    return times


def _classify(source: str) -> tuple[str, str]:
    layer = next((layer for layer, pattern in _LAYERS.items() if re.search(pattern, source)), "optimizer and others")
    if layer == "optimizer and others":
        return layer, ""
    if "transpose(jvp" not in source:
        return layer, "forward"
    return layer, "kernel gradient" if layer == "depthwise" and "while" in source else "backward"


def print_bounds() -> None:
    """Prints the bounds, summed by layer type."""
    speed, copy = measure_matrix_product(), measure_copy()
    print(f"\nA matrix product runs at {speed / 1e9:.0f} GFLOP/s, and a copy reads and writes {copy / 1e9:.0f} GB/s.\n")
    print("| operations | GFLOP | GB | bound, ms |\n|---|---|---|---|")
    sums: collections.defaultdict[str, list[float]] = collections.defaultdict(lambda: [0, 0, 0])
    for name, operations, moved in list_work():
        bound = max(operations / speed, moved / copy)
        sums[name] = [a + b for a, b in zip(sums[name], (operations, moved, bound), strict=True)]
    for name, (operations, moved, bound) in sums.items():
        print(f"| {name} | {operations / 1e9:.1f} | {moved / 1e9:.2f} | {1e3 * bound:.0f} |")
    print(f"| sum | | | {1e3 * sum(bound for *_, bound in sums.values()):.0f} |")


def list_work() -> Iterator[tuple[str, float, float]]:
    """Yields layer type, floating-point operations and moved bytes of each operation of a step.

    A convolution has a forward pass and two gradients, each of which reads two arrays and writes one. Normalization
    with ReLU6 reads its input twice and writes its result; its gradient reads two arrays twice and writes one.
    """
    size, channels = SIZE // 2, 32
    images, outputs = BATCH_SIZE * SIZE**2 * 3, BATCH_SIZE * size**2 * channels
    for _ in range(2):  # no gradient of the images
        yield "stem", 2 * 27 * outputs, 4 * (images + outputs)
    yield "normalization, ReLU6", 0, 4 * 8 * outputs
    for features, stride in BLOCKS:
        inputs, size = BATCH_SIZE * size**2 * channels, size // stride
        between, outputs = (BATCH_SIZE * size**2 * c for c in (channels, features))
        for _ in range(3):
            yield "depthwise", 2 * 9 * between, 4 * (inputs + between)
            yield "pointwise", 2 * channels * outputs, 4 * (between + outputs)
        yield "normalization, ReLU6", 0, 4 * 8 * (between + outputs)
        channels = features
    dense = size**2 * channels * 1024 + 1024**2
    # The kernels are read twice and their gradients written; SGD reads both and the momentum, and writes two of them.
    yield "head and its update", 6 * BATCH_SIZE * dense, 4 * 8 * dense


def measure_matrix_product() -> float:
    """Returns floating-point operations per second."""
    a, b = jnp.ones((6272, 512)), jnp.ones((512, 512))
    return 2 * 6272 * 512 * 512 / _measure(lambda: a @ b)


def measure_copy() -> float:
    """Returns bytes per second."""
    x = jnp.ones((64 << 20,))
    increment = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / _measure(lambda: increment(x))


def _measure(call: Callable[[], jax.Array]) -> float:
    """Returns the median of the seconds of 21 calls."""
    seconds = []
    for _ in range(21):
        start = time.perf_counter()
        call().block_until_ready()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
