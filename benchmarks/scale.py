"""Measures how start-up, speed and memory of the input pipeline depend on the number of images.

    python -m benchmarks.scale --data DIR > benchmarks/results/scale.md

DIR is in the ISIC archive's layout. Its files are linked under as many names as a table needs, five images per lesion.
The first start validates every image; later ones find that no file has changed. The batches are augmented as in the
article, to 128 x 128.
"""

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from input_pipeline.augment import Augmentation
from input_pipeline.batches import BatchOptions, make_train_batches
from input_pipeline.sources.registry import read_examples, read_split

NUMBERS = (1_000, 10_000, 100_000, 1_000_000)
STEPS, WARM_UP = 60, 10
AUGMENTATION = Augmentation(rotation=30, width_shift=0.3, height_shift=0.3, zoom=0.3, horizontal_flip=True)
OPTIONS = BatchOptions(128, input_scaling=(0.0, 1.0), batch_size=32, seed=0)


def write_table(data: str, folder: Path, number: int) -> Path:
    """Links `number` images into folders of 1,000 and returns their table."""
    examples = read_examples("isic2018", data)
    files = sorted(zip(examples.labels, examples.paths, strict=True))[:: max(1, len(examples) // number)]
    files = files[: len(files) // 5 * 5]
    table = folder / "images.csv"
    with table.open("w") as file:
        file.write("path,label,group\n")
        for i in range(number):
            path = folder / f"{i // 1000:04}/{i:07}.jpg"
            path.parent.mkdir(exist_ok=True)
            if i < len(files):
                shutil.copy(files[i][1], path)
            else:
                k = i % len(files)
                os.link(folder / f"{k // 1000:04}/{k:07}.jpg", path)
            label = files[i // 5 * 5 % len(files)][0]  # that of the first image of the lesion
            file.write(f"{path},{examples.class_names[label]},{i // 5}\n")
    return table


def measure(table: str) -> None:
    """Prints seconds of start-up, images per second, and the peak megabytes after start-up and at the end."""
    start = time.perf_counter()
    training, _ = read_split("csv", table, "lesion", val_fraction=0.3, seed=0)
    batches = make_train_batches(training, AUGMENTATION, OPTIONS, first_step=0, last_step=len(training) // 32 * 100)
    next(batches)
    seconds, started = time.perf_counter() - start, _get_peak_megabytes()
    for _ in range(WARM_UP):
        next(batches)
    start = time.perf_counter()
    for _ in range(STEPS):
        next(batches)
    speed = STEPS * OPTIONS.batch_size / (time.perf_counter() - start)
    print(seconds, speed, started, _get_peak_megabytes(), flush=True)
    os._exit(0)  # without waiting for the batches that are being read


def _get_peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--table", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        return measure(args.table)

    packages = " ".join(f"{p} {version(p)}" for p in ("tensorflow-cpu", "numpy", "scikit-learn"))
    print("# Number of images\n\n`python -m benchmarks.scale --data DIR`\n")
    print(f"{packages}, Python {platform.python_version()}, {os.cpu_count()} CPU cores\n")
    print("| images | first start, s | later starts, s | images/s | peak memory, MB: at the start | at the end |")
    print("|---|---|---|---|---|---|")
    for number in NUMBERS:
        with tempfile.TemporaryDirectory() as folder:
            table = write_table(args.data, Path(folder), number)
            command = [sys.executable, "-m", "benchmarks.scale", f"--data={args.data}", f"--table={table}"]
            environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache"}
            first, later = (
                [float(x) for x in subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                 .stdout.split()]
                for _ in range(2)
            )  # fmt: skip
        cells = [f"{number:,}", f"{first[0]:.1f}", f"{later[0]:.1f}", *(f"{x:,.0f}" for x in later[1:])]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
