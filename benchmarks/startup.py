"""Measures the seconds from the start of `train.py` to its first step, with and without the caches of earlier runs.

    python -m benchmarks.startup --data DIR --weights FILE > benchmarks/results/startup.md

DIR is in the ISIC archive's layout, FILE is Keras's `mobilenet_1_0_224_tf_no_top.h5`. Alpha is 1.0, images are
224 x 224, and the head is the article's. Without caches, every image is validated, and the step is compiled.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version


def measure_start(data: str, weights: str, cache: str) -> float:
    """Returns the seconds until the first step, after which the process is killed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "train.py", "--config=configs/mobilenet.py:isic2018", f"--workdir={folder}/run",
            f"--config.data.dir={data}", f"--config.init.weights={weights}", "--config.model.alpha=1.0",
            "--config.data.image_size=224",
        ]  # fmt: skip
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        start = time.perf_counter()
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            found = any(line.startswith("first step") for line in process.stdout)
            seconds = time.perf_counter() - start
            process.kill()
        assert found, "the training ended before its first step"
        return seconds


def main() -> None:
    """Prints the seconds of each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    rows = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as cache:
            rows.append([measure_start(args.data, args.weights, cache) for _ in range(2)])
    packages = " ".join(f"{p} {version(p)}" for p in ("jax", "flax", "tensorflow-cpu"))
    print(f"# Start of training\n\n`python -m benchmarks.startup --data DIR --weights FILE --rounds {args.rounds}`\n")
    print(f"{packages}, Python {platform.python_version()}, {os.cpu_count()} CPU cores\n")
    print("| caches | seconds to the first step: median | lowest | highest |\n|---|---|---|---|")
    for name, seconds in zip(("none", "of an earlier run"), zip(*rows, strict=True), strict=True):
        print(f"| {name} | {statistics.median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f} |")


if __name__ == "__main__":
    main()
