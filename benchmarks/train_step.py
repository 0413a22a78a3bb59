"""Measures the training step in images per second, here, in Keras on TensorFlow, and in PyTorch.

    python -m benchmarks.train_step --torch-python FILE [--alpha 1.0 --image-size 224]

All train with the article's head, batch 32, in float32 on synthetic images that are already in memory. `mobilenet-jax
train` runs with huge pages, which it requests itself; the others can be given them too, and are measured with and
without. FILE is the Python interpreter of an environment with PyTorch; without it, PyTorch is left out.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from benchmarks.rounds import Side, format_table, serve, time_in_turns

BATCH_SIZE = 32
HUGE_PAGES = "glibc.malloc.hugetlb=1"


def make_keras_runner(alpha: float, size: int) -> Callable[[int], None]:
    """Returns a function that runs N training steps in Keras, in one compiled loop over a dataset."""
    import tensorflow as tf

    from benchmarks.keras_article import build_model

    model = build_model(alpha, size, None)
    images, labels = make_batch(size)
    dataset = tf.data.Dataset.from_tensors((images, np.eye(7, dtype=np.float32)[labels])).repeat()
    return lambda steps: model.fit(dataset, steps_per_epoch=steps, verbose=0) and None


def make_jax_runner(alpha: float, size: int) -> Callable[[int], None]:
    """Returns a function that runs N training steps of this project."""
    import jax
    import jax.numpy as jnp
    import optax

    from mobilenet_jax.model.mobilenet import MobileNet
    from mobilenet_jax.training.step import create_train_state, make_train_step

    model, optimizer = MobileNet(alpha, "article"), optax.sgd(0.001, 0.9)
    key = jax.random.key(0, impl="rbg")
    variables = jax.jit(lambda: model.init(key, jnp.zeros((1, size, size, 3)), train=False))()
    state = create_train_state(variables["params"], variables["batch_stats"], optimizer)
    train_step = make_train_step(model, optimizer, key)
    batch = dict(zip(("image", "label"), map(jnp.asarray, make_batch(size)), strict=True))

    def run_steps(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, result, _ = train_step(state, batch, jnp.float32(1))
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


def list_sides(arguments: list[str], torch_python: str | None) -> dict[str, Side]:
    """Returns the processes to time, by the names of the table."""
    sides = {}
    for name in RUNNERS:
        python = torch_python if name == "PyTorch" else sys.executable
        for tunables in ("", HUGE_PAGES) if python else ():
            command = [str(python), "-m", "benchmarks.train_step", *arguments, f"--side={name}"]
            environment = {**os.environ, "GLIBC_TUNABLES": tunables, "TF_CPP_MIN_LOG_LEVEL": "3"}
            sides[f"{name}, huge pages" if tunables else name] = Side(command, environment)
    return sides


def main() -> None:
    """Runs the implementations in turn and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alpha", type=float, default=0.25)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--torch-python", metavar="FILE")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return serve(RUNNERS[args.side](args.alpha, args.image_size))

    timings = time_in_turns(list_sides(sys.argv[1:], args.torch_python), args.rounds, args.steps)
    packages = " ".join(f"{p} {version(p)}" for p in ("jax", "flax", "keras", "tensorflow-cpu"))
    options = f"--alpha {args.alpha} --image-size {args.image_size} --steps {args.steps} --rounds {args.rounds}"
    if args.torch_python:
        command = [args.torch_python, "-c", "import torch; print(torch.__version__)"]
        packages += f" torch {subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()}"
        options += " --torch-python FILE"
    print(f"`python -m benchmarks.train_step {options}`\n")
    print(f"{packages}, Python {platform.python_version()}, {os.cpu_count()} CPU cores\n")
    print(f"Training steps, alpha {args.alpha}, {args.image_size} x {args.image_size}, batch {BATCH_SIZE}\n")
    print(format_table(timings, BATCH_SIZE, "Keras"))


if __name__ == "__main__":
    main()
