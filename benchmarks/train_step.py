"""Images per second of the training step, here and in Keras on TensorFlow, with and without huge pages.

    python -m benchmarks.train_step [--alpha 0.25 --image-size 128] > benchmarks/results/train_step.md

Article's head, batch 32, float32, synthetic images already in memory. Four processes take turns of some steps each.
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


def keras_side(alpha: float, size: int) -> Callable[[int], None]:
    """A function that does so many training steps in Keras, in one compiled loop over a dataset."""
    import tensorflow as tf

    from benchmarks.keras_article import build_model

    model = build_model(alpha, size, None)
    images, labels = _batch(size)
    dataset = tf.data.Dataset.from_tensors((images, np.eye(7, dtype=np.float32)[labels])).repeat()
    return lambda steps: model.fit(dataset, steps_per_epoch=steps, verbose=0) and None


def our_side(alpha: float, size: int) -> Callable[[int], None]:
    """A function that does so many training steps here."""
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
    batch = dict(zip(("image", "label"), map(jnp.asarray, _batch(size)), strict=True))

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, outcome, _ = train_step(state, batch, jnp.float32(1))
            jax.block_until_ready(outcome)

    return run


def _batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((BATCH_SIZE, size, size, 3), np.float32), rng.integers(0, 7, BATCH_SIZE, np.int32)


def _serve(side: str, alpha: float, size: int) -> None:
    """A child: for each line with a number of steps, does them and prints the seconds."""
    run = {"keras": keras_side, "here": our_side}[side](alpha, size)
    run(3)
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        print("seconds", time.perf_counter() - start, flush=True)


def main() -> None:
    """Lets the sides take turns and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alpha", type=float, default=0.25)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return _serve(args.side, args.alpha, args.image_size)

    speeds: dict[str, list[float]] = {}
    children = {}
    for side in ("keras", "here"):
        for tunables in ("", HUGE_PAGES):
            name = f"{side}{', huge pages' if tunables else ''}"
            children[name] = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], f"--side={side}"],
                env={**os.environ, "GLIBC_TUNABLES": tunables, "TF_CPP_MIN_LOG_LEVEL": "3"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
    for _ in range(args.rounds + 1):  # the first is not counted
        for name, child in children.items():
            assert child.stdin
            assert child.stdout
            child.stdin.write(f"{args.steps}\n")
            child.stdin.flush()
            line = next(line for line in child.stdout if line.startswith("seconds"))
            speeds.setdefault(name, []).append(BATCH_SIZE * args.steps / float(line.split()[1]))
    for child in children.values():
        child.communicate()

    packages = " ".join(f"{p} {version(p)}" for p in ("jax", "flax", "keras", "tensorflow-cpu"))
    print(f"`python -m benchmarks.train_step {' '.join(sys.argv[1:])}`\n")
    print(f"{packages}, Python {platform.python_version()}, {os.cpu_count()} CPU cores\n")
    print(f"alpha {args.alpha}, {args.image_size} x {args.image_size}, batch {BATCH_SIZE}, {args.rounds} rounds\n")
    print("| side | images/s: median | lowest | highest | ratio to Keras, median of rounds |\n|---|---|---|---|---|")
    for name, values in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(values[1:], speeds["keras"][1:], strict=True))
        cells = (statistics.median(values[1:]), min(values[1:]), max(values[1:]))
        print(f"| {name} | {' | '.join(f'{c:.1f}' for c in cells)} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
