"""Measures the training step in images per second, here, in Keras on TensorFlow, and in PyTorch.

    python -m benchmarks.train_step [--torch-python FILE] > benchmarks/results/train_step.md

All train with the article's head, batch 32, in float32 on synthetic images that are already in memory. `mobilenet-jax
train` sets glibc's `malloc` to huge pages that are kept; the others can be given these settings too, and all are
measured with and without. FILE is the Python interpreter of an environment with PyTorch; without it, PyTorch is left
out.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.rounds import Side, compare, format_table, serve
from mobilenet_jax.cli.malloc import TUNABLES

BATCH_SIZE = 32
SETTINGS = ((0.25, 128, 15), (1.0, 224, 2))  # alpha, image size, steps per round


def make_keras_runner(alpha: float, size: int) -> Callable[[int], None]:
    """Returns a function that runs N training steps in Keras, in one compiled loop over a dataset."""
    import tensorflow as tf

    from benchmarks.keras_article import build_model

    model = build_model(alpha, size, None)
    images, labels = make_batch(size)
    dataset = tf.data.Dataset.from_tensors((images, np.eye(7, dtype=np.float32)[labels])).repeat()
    return lambda steps: model.fit(dataset, steps_per_epoch=steps, verbose=0) and None


def compile_step(alpha: float, size: int) -> tuple[Any, Any, Any]:
    """Returns the compiled training step of this project, its state and a batch."""
    import jax
    import jax.numpy as jnp
    import optax

    from mobilenet_jax.model.mobilenet import MobileNet
    from mobilenet_jax.training.step import create_train_state, make_train_step

    model, optimizer = MobileNet(alpha, "article"), optax.sgd(0.001, 0.9)
    key = jax.random.key(0, impl="rbg")
    variables = jax.jit(lambda: model.init(key, jnp.zeros((1, size, size, 3)), train=False))()
    state = create_train_state(variables["params"], variables["batch_stats"], optimizer)
    batch = dict(zip(("image", "label"), map(jnp.asarray, make_batch(size)), strict=True))
    step: Any = make_train_step(model, optimizer, key)
    return step.lower(state, batch, jnp.float32(1)).compile(), state, batch


def make_jax_runner(alpha: float, size: int) -> Callable[[int], None]:
    """Returns a function that runs N training steps of this project."""
    import jax
    import jax.numpy as jnp

    step, state, batch = compile_step(alpha, size)

    def run_steps(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, result, _ = step(state, batch, jnp.float32(1))
            jax.block_until_ready(result)

    return run_steps


def make_torch_runner(alpha: float, size: int) -> Callable[[int], None]:
    """Returns a function that runs N training steps in PyTorch."""
    from benchmarks.torch_model import make_train_runner

    return make_train_runner(alpha, *make_batch(size))


RUNNERS = {"Keras": make_keras_runner, "this project": make_jax_runner, "PyTorch": make_torch_runner}


def make_batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images and labels."""
    rng = np.random.default_rng(0)
    return rng.random((BATCH_SIZE, size, size, 3), np.float32), rng.integers(0, 7, BATCH_SIZE, np.int32)


def list_sides(alpha: float, size: int, torch_python: str | None) -> dict[str, Side]:
    """Returns the processes to time, by the names of the table."""
    sides = {}
    for name in RUNNERS:
        python = torch_python if name == "PyTorch" else sys.executable
        for tunables in ("", TUNABLES) if python else ():
            command = [str(python), "-m", "benchmarks.train_step", f"--side={name}", str(alpha), str(size)]
            environment = {**os.environ, "GLIBC_TUNABLES": tunables, "TF_CPP_MIN_LOG_LEVEL": "3"}
            sides[f"{name}, malloc set" if tunables else name] = Side(command, environment)
    return sides


def main() -> None:
    """Runs the implementations in turn and prints a table for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--torch-python", metavar="FILE")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("setting", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        alpha, size = args.setting
        return serve(RUNNERS[args.side](float(alpha), int(size)))

    packages = " ".join(f"{p} {version(p)}" for p in ("jax", "flax", "keras", "tensorflow-cpu"))
    command = f"python -m benchmarks.train_step --rounds {args.rounds}"
    if args.torch_python:
        script = "from importlib.metadata import version; print(version('torch'))"
        torch = subprocess.run([args.torch_python, "-c", script], check=True, capture_output=True, text=True)
        packages += f" torch {torch.stdout.strip()}"
        command += " --torch-python FILE"
    print(f"# Speed of the training step\n\n`{command}`\n")
    print(f"{packages}, Python {platform.python_version()}, {os.cpu_count()} CPU cores")
    for alpha, size, steps in SETTINGS:
        comparisons = compare(list_sides(alpha, size, args.torch_python), "Keras", args.rounds, steps)
        print(f"\nAlpha {alpha}, {size} x {size}, batch {BATCH_SIZE}, {steps} steps per round\n")
        print(format_table(comparisons, BATCH_SIZE, "Keras"), flush=True)


if __name__ == "__main__":
    main()
