"""Measures the training step in images per second, here and in Keras on TensorFlow, with and without huge pages.

    python -m benchmarks.train_step [--alpha 0.25 --image-size 128] > benchmarks/results/train_step.md

Both train with the article's head, batch 32, in float32 on synthetic images that are already in memory. Four
processes take turns, each with a few steps per round, so that all meet the same load of the machine.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

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


RUNNERS = {"keras": make_keras_runner, "here": make_jax_runner}


def make_batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images and labels."""
    rng = np.random.default_rng(0)
    return rng.random((BATCH_SIZE, size, size, 3), np.float32), rng.integers(0, 7, BATCH_SIZE, np.int32)


def serve_steps(side: str, alpha: float, size: int) -> None:
    """Runs a child process: for each line with a number of steps, runs them and prints the seconds."""
    run_steps = RUNNERS[side](alpha, size)
    run_steps(3)  # compiles
    for line in sys.stdin:
        start = time.perf_counter()
        run_steps(int(line))
        print("seconds", time.perf_counter() - start, flush=True)


def start_child(side: str, tunables: str) -> subprocess.Popen[str]:
    """Starts this benchmark as the child process of one implementation, with settings of glibc."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], f"--side={side}"],
        env={**os.environ, "GLIBC_TUNABLES": tunables, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def measure_speeds(rounds: int, steps: int) -> dict[str, list[float]]:
    """Measures each implementation in images per second, one value per round; a first round is not counted."""
    children = {
        f"{side}{', huge pages' if tunables else ''}": start_child(side, tunables)
        for side in RUNNERS
        for tunables in ("", HUGE_PAGES)
    }
    speeds: dict[str, list[float]] = {name: [] for name in children}
    for _ in range(rounds + 1):
        for name, child in children.items():
            assert child.stdin
            assert child.stdout
            child.stdin.write(f"{steps}\n")
            child.stdin.flush()
            line = next(line for line in child.stdout if line.startswith("seconds"))
            speeds[name].append(BATCH_SIZE * steps / float(line.split()[1]))
    for child in children.values():
        child.communicate()
    return {name: values[1:] for name, values in speeds.items()}


def main() -> None:
    """Runs the implementations in turn and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alpha", type=float, default=0.25)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return serve_steps(args.side, args.alpha, args.image_size)

    speeds = measure_speeds(args.rounds, args.steps)
    packages = " ".join(f"{p} {version(p)}" for p in ("jax", "flax", "keras", "tensorflow-cpu"))
    print(f"`python -m benchmarks.train_step {' '.join(sys.argv[1:])}`\n")
    print(f"{packages}, Python {platform.python_version()}, {os.cpu_count()} CPU cores\n")
    print(f"alpha {args.alpha}, {args.image_size} x {args.image_size}, batch {BATCH_SIZE}, {args.rounds} rounds\n")
    print("| side | images/s: median | lowest | highest | ratio to Keras, median of rounds |\n|---|---|---|---|---|")
    for name, values in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(values, speeds["keras"], strict=True))
        cells = (statistics.median(values), min(values), max(values))
        print(f"| {name} | {' | '.join(f'{c:.1f}' for c in cells)} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
