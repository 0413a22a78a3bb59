"""Runs every experiment of the article and compares how much each remedy against overfitting changes.

    python -m benchmarks.experiments --data DIR --runs RUNS [--epochs 6] [--config.SECTION.KEY=VALUE ...]

Trains each of `configs/article/*.py` on DIR, which is in the ISIC archive's layout, with one workdir per experiment in
RUNS. A run that was interrupted is resumed, and a finished one is not repeated. Prints a table and draws
`benchmarks/results/article.png`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

NAMES = ("original", "first", "per_class", "batch_norm", "l2", "l1", "l1_l2", "early_stopping", "adadelta")
PICTURE = Path(__file__).parent / "results" / "article.png"


def main() -> None:
    """Trains the experiments that are not finished, prints the table and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    args, overrides = parser.parse_known_args()
    for name in NAMES:
        workdir = args.runs / name
        subprocess.run(
            [
                sys.executable, "train.py", f"--config=configs/article/{name}.py", f"--workdir={workdir}",
                f"--config.data.dir={args.data}", f"--config.train.epochs={args.epochs}", *overrides,
            ],
            check=True, stdout=sys.stderr,
        )  # fmt: skip
    report(args.runs)


def report(folder: Path) -> None:
    """Prints the table and draws the picture of all runs in `folder`."""
    runs: dict[str, list[dict[str, Any]]] = {
        name: [json.loads(line) for line in (folder / name / "metrics.jsonl").open()]
        for name in NAMES
        if (folder / name).exists()
    }
    print(
        f"jax {version('jax')} flax {version('flax')} Python {platform.python_version()}, {os.cpu_count()} CPU cores"
        "\n\n"
        "| experiment | epochs | training accuracy | validation accuracy | gap | training balanced accuracy "
        "| validation balanced accuracy | training loss | validation loss | lowest (epoch) | seconds per epoch |\n"
        + "|---" * 11
        + "|"
    )
    for name, records in runs.items():
        last, lowest = records[-1], min(records, key=lambda r: r["val_loss"])
        seconds = sorted(r["seconds"] for r in records)[len(records) // 2]
        cells = [
            f"{last['train_accuracy']:.3f}", f"{last['val_accuracy']:.3f}",
            f"{last['train_accuracy'] - last['val_accuracy']:+.3f}", f"{last['train_balanced_accuracy']:.3f}",
            f"{last['val_balanced_accuracy']:.3f}", f"{last['train_loss']:.3f}", f"{last['val_loss']:.3f}",
            f"{lowest['val_loss']:.3f} ({lowest['epoch']})", f"{seconds:.0f}",
        ]  # fmt: skip
        print(f"| {name} | {len(records)} | {' | '.join(cells)} |")
    _draw(runs)


def _draw(runs: dict[str, list[dict[str, Any]]]) -> None:
    rows = -(-len(runs) // 3)
    figure = Figure(figsize=(12, 2.4 * rows), layout=ConstrainedLayoutEngine(w_pad=0.1))
    axes = figure.subplots(rows, 6, sharex=True, squeeze=False)
    for i, (name, records) in enumerate(runs.items()):
        epochs = [r["epoch"] for r in records]
        for axis, metric in zip(axes[i // 3, i % 3 * 2 : i % 3 * 2 + 2], ("loss", "accuracy"), strict=True):
            for prefix, label, style in (("train", "training", "o-"), ("val", "validation", "s--")):
                axis.plot(epochs, [r[f"{prefix}_{metric}"] for r in records], style, markersize=3, label=label)
            axis.set_title(f"{name}: {metric}", fontsize=9)
            axis.set_ylim(*((0.4, 1.6) if metric == "loss" else (0.55, 0.85)))
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(PICTURE, dpi=80)


if __name__ == "__main__":
    main()
