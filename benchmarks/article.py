"""Compares the article's experiment with its own Keras code: accuracy and seconds per epoch, and peak memory.

    python -m benchmarks.article --data DIR --weights FILE > benchmarks/results/keras_article.md

DIR is in the ISIC archive's layout, FILE is Keras's `mobilenet_2_5_224_tf_no_top.h5`. Both train on the same
images with the same split, settings and cores. Their epochs alternate, and one process is stopped while the other runs,
so that a machine whose speed drifts slows both equally.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image


class Side:
    """One of the two processes, which runs one epoch at a time.

    Attributes:
        peak_megabytes: peak resident memory, including the pages of libraries.
    """

    def __init__(self, command: list[str]):
        self.peak_megabytes = 0.0
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self._process.send_signal(signal.SIGSTOP)

    def run_until(self, marker: str) -> tuple[str, float]:
        """Runs the process until it prints a line that starts with `marker`.

        Returns:
            The line, and the seconds that passed.

        Raises:
            RuntimeError: the process ended first.
        """
        assert self._process.stdout
        self._process.send_signal(signal.SIGCONT)
        start = time.perf_counter()
        for line in self._process.stdout:
            if line.startswith(marker):
                self._process.send_signal(signal.SIGSTOP)
                seconds = time.perf_counter() - start
                status = Path(f"/proc/{self._process.pid}/status").read_text()
                self.peak_megabytes = int(status.partition("VmHWM:")[2].split()[0]) / 1000
                return line, seconds
        raise RuntimeError(f"{self._process.args!r} ended before it printed a line that starts with {marker!r}")

    def finish(self) -> None:
        """Runs the process to its end."""
        self._process.send_signal(signal.SIGCONT)
        self._process.communicate()


def main() -> None:
    """Runs both implementations and prints the results as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--alpha", type=float, default=0.25)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        peer, ours = Side(_build_keras_command(args)), Side(_build_command(args, f"{folder}/run"))
        peer_records, seconds = [], []
        for epoch in range(1, args.epochs + 1):
            _, peer_seconds = peer.run_until("epoch")
            line, _ = peer.run_until("{")
            _, our_seconds = ours.run_until("epoch")
            peer_records.append(json.loads(line))
            seconds.append((peer_seconds, our_seconds))
            print(f"epoch {epoch}: {peer_seconds:.1f} s and {our_seconds:.1f} s", file=sys.stderr)
        peer.finish()
        ours.finish()
        records = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").open()]
    _print_table(args, peer_records, records, seconds)
    _print_memory(args, peer, ours)


def _build_keras_command(args: argparse.Namespace) -> list[str]:
    return [
        sys.executable,
        "-m",
        "benchmarks.keras_article",
        "--data",
        args.data,
        "--weights",
        args.weights,
        f"--alpha={args.alpha}",
        f"--image-size={args.image_size}",
        f"--epochs={args.epochs}",
    ]


def _build_command(args: argparse.Namespace, workdir: str) -> list[str]:
    return [
        sys.executable,
        "train.py",
        "--config=configs/mobilenet.py:isic2018",
        f"--workdir={workdir}",
        f"--config.data.dir={args.data}",
        f"--config.init.weights={args.weights}",
        f"--config.model.alpha={args.alpha}",
        f"--config.data.image_size={args.image_size}",
        f"--config.train.epochs={args.epochs}",
    ]


def _print_table(
    args: argparse.Namespace,
    peer_records: list[dict[str, Any]],
    records: list[dict[str, Any]],
    seconds: list[tuple[float, float]],
) -> None:
    print("# The article's experiment, here and in Keras\n")
    settings = f"--alpha {args.alpha} --image-size {args.image_size} --epochs {args.epochs}"
    print(f"`python -m benchmarks.article --data DIR --weights FILE {settings}`\n")
    packages = " ".join(f"{p} {version(p)}" for p in ("jax", "flax", "keras", "tensorflow-cpu"))
    print(f"{packages}, Python {platform.python_version()}, {os.cpu_count()} CPU cores, commit {_get_commit()}\n")
    print(f"alpha {args.alpha}, {args.image_size} x {args.image_size}, split by lesion. Keras evaluates on augmented "
          "images, as the article does, and, for comparison, on plain ones. This project evaluates on plain ones only. "
          "The seconds include the validation of the epoch, but not Keras's second validation.\n")  # fmt: skip
    print("| epoch | accuracy: Keras, augmented | Keras, plain | here | balanced accuracy: Keras, augmented "
          "| Keras, plain | here | seconds: Keras | here |\n|" + "---|" * 9)  # fmt: skip
    for theirs, mine, pair in zip(peer_records, records, seconds, strict=True):
        cells = [f"{r[f'{k}_{m}']:.3f}" for m in ("accuracy", "balanced_accuracy")
                 for r, k in ((theirs, "val"), (theirs, "plain"), (mine, "val"))]  # fmt: skip
        print(f"| {theirs['epoch']} | {' | '.join(cells)} | {pair[0]:.1f} | {pair[1]:.1f} |")
    # The first epoch includes the start of this project's process, and the compilation of both implementations.
    if not (later := seconds[1:]):
        return
    medians = [statistics.median(column) for column in zip(*later, strict=True)]
    ratio = statistics.median(theirs / mine for theirs, mine in later)
    print(f"\nMedian epoch after the first: Keras {medians[0]:.1f} s, here {medians[1]:.1f} s; "
          f"median ratio of the pairs {ratio:.2f}.\n")  # fmt: skip


def _print_memory(args: argparse.Namespace, peer: Side, ours: Side) -> None:
    paths = sorted(Path(args.data).glob("*/*.jpg"))
    with Image.open(paths[0]) as image:
        width, height = image.size
    size = len(paths) * args.image_size**2 * 3 * 4 / 1e6
    stored = len(paths) * width * height * 3 * 4 / 1e6
    print(f"Peak resident memory of the process: Keras {peer.peak_megabytes:.0f} MB, here {ours.peak_megabytes:.0f} "
          f"MB. All images decoded as float32 would take {size:.0f} MB at this size and {stored:.0f} MB at the "
          f"stored size of {width} x {height}.")  # fmt: skip


def _get_commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
