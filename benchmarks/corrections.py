"""What test-time augmentation, temperature and prior correction change: a run's last model on its validation images.

    python -m benchmarks.corrections WORKDIR [--data DIR] > benchmarks/results/corrections.md

Corrections are fitted to other lesions than they are applied to. Intervals: 95%, 1,000 samples of lesions, paired.
"""

import argparse
from pathlib import Path

import numpy as np

from mobilenet_jax.evaluation.calibration import cross_fit
from mobilenet_jax.evaluation.evaluate import predict
from mobilenet_jax.evaluation.metrics import Metrics, bootstrap, compute_metrics
from mobilenet_jax.evaluation.trained_run import read_trained_run
from mobilenet_jax.inference.classifier import MAX_VIEWS

FIGURES = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "nll": "NLL", "ece": "calibration error"}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--data")
    args = parser.parse_args()
    run = read_trained_run(args.workdir, "latest")
    examples = run.examples(args.data, None, "validation")
    one, many = predict(run, examples), predict(run, examples, MAX_VIEWS)
    ways = {
        "as it is": one,
        "temperature": cross_fit(one, run.prior, "temperature"),
        "prior": cross_fit(one, run.prior, "prior"),
        f"{MAX_VIEWS} views": many,
        f"{MAX_VIEWS} views, temperature": cross_fit(many, run.prior, "temperature"),
        f"{MAX_VIEWS} views, prior": cross_fit(many, run.prior, "prior"),
    }

    def statistic(rows: np.ndarray) -> Metrics:
        each = {name: compute_metrics(way.take(rows)) for name, way in ways.items()}
        found = {f"{name}.{figure}": metrics[figure] for name, metrics in each.items() for figure in FIGURES}
        return found | {
            f"{name}-.{figure}": metrics[figure] - each["as it is"][figure]
            for name, metrics in each.items()
            for figure in FIGURES
        }

    values, intervals = statistic(np.arange(len(one))), bootstrap(one.lesions, statistic, 1000)

    def cell(name: str, sign: str = "") -> str:
        low, high = intervals[name]
        return f"{values[name]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"

    print(
        f"{len(one):,} images of {len(set(one.lesions)):,} lesions; the second line: the difference from `as it is`.\n"
    )
    print(f"| | {' | '.join(FIGURES.values())} |\n" + "|---" * (len(FIGURES) + 1) + "|")
    for name in ways:
        print(f"| {name} | {' | '.join(cell(f'{name}.{figure}') for figure in FIGURES)} |")
        if name != "as it is":
            print(f"| | {' | '.join(cell(f'{name}-.{figure}', '+') for figure in FIGURES)} |")


if __name__ == "__main__":
    main()
