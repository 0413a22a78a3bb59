"""Measures the effect of test-time augmentation, temperature scaling and prior correction on validation images.

    python -m benchmarks.corrections WORKDIR... [--data DIR] > benchmarks/results/corrections.md

The workdirs are those of the folds of a cross-validation, or of one run. The checkpoint is the latest. Each correction
is fitted to other lesions than it is applied to. The intervals are 95% bootstrap intervals from 1,000 samples of
lesions; those of differences are paired.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mobilenet_jax.evaluation.bootstrap import compute_intervals
from mobilenet_jax.evaluation.calibration import cross_fit
from mobilenet_jax.evaluation.evaluate import predict_examples
from mobilenet_jax.evaluation.metrics import OVERALL, Metrics, compute_key_metrics
from mobilenet_jax.evaluation.predictions import Predictions, concatenate_predictions
from mobilenet_jax.evaluation.trained_run import TrainedRun, read_trained_run
from mobilenet_jax.inference.views import MAX_VIEWS

METRICS = ("balanced_accuracy", "accuracy", "macro_auc", "nll", "ece")
BASELINE = "one view, uncorrected"


def main() -> None:
    """Predicts, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", type=Path, nargs="+", metavar="WORKDIR")
    parser.add_argument("--data", help="folder of the images (default: that of the run)")
    args = parser.parse_args()
    _print_table(_predict_variants([read_trained_run(workdir, "latest") for workdir in args.workdirs], args.data))


def _predict_variants(runs: Sequence[TrainedRun], data: str | None) -> dict[str, Predictions]:
    """Returns the predictions for the validation splits of all runs by the name of the variant."""
    parts = [run.read_examples(data, None, "validation") for run in runs]
    prior = np.mean([run.prior for run in runs], axis=0)
    variants = {}
    for prefix, views in (("", 1), (f"{MAX_VIEWS} views", MAX_VIEWS)):
        plain = concatenate_predictions(
            [predict_examples(run, part, views) for run, part in zip(runs, parts, strict=True)]
        )
        variants[prefix or BASELINE] = plain
        for correction in ("temperature", "prior"):
            variants[f"{prefix}, {correction}".lstrip(", ")] = cross_fit(plain, prior, correction)
    return variants


def _compute_metrics(predictions: Predictions) -> Metrics:
    accuracy = float((predictions.predicted == predictions.labels).mean())
    return {**compute_key_metrics(predictions), "accuracy": accuracy}


def _print_table(variants: dict[str, Predictions]) -> None:
    """Prints the metrics of each variant, and in a second line its differences from the baseline."""

    def compute_values(rows: np.ndarray) -> Metrics:
        metrics = {name: _compute_metrics(predictions.take(rows)) for name, predictions in variants.items()}
        return {f"{name}.{metric}": values[metric] for name, values in metrics.items() for metric in METRICS}

    def compute_differences(rows: np.ndarray) -> Metrics:
        values = compute_values(rows)
        return {
            f"{name}-.{metric}": values[f"{name}.{metric}"] - values[f"{BASELINE}.{metric}"]
            for name in variants
            for metric in METRICS
        }

    baseline, rows = variants[BASELINE], np.arange(len(variants[BASELINE]))
    values = compute_values(rows) | compute_differences(rows)
    intervals = compute_intervals(baseline.lesions, baseline.labels, compute_values, 1000)
    intervals |= compute_intervals(baseline.lesions, baseline.labels, compute_differences, 1000, are_differences=True)

    def format_row(label: str, prefix: str, sign: str) -> str:
        cells = []
        for metric in METRICS:
            low, high = intervals[f"{prefix}.{metric}"]
            cells.append(f"{values[f'{prefix}.{metric}']:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]")
        return f"{f'| {label} |' if label else '| |'} {' | '.join(cells)} |"

    print(
        f"{len(baseline):,} images of {len(set(baseline.lesions)):,} lesions. The second line of each row is the "
        f"difference from `{BASELINE}`.\n\n"
        f"| | {' | '.join(OVERALL[metric].label for metric in METRICS)} |\n" + "|---" * (len(METRICS) + 1) + "|"
    )
    for name in variants:
        print(format_row(name, name, ""))
        if name != BASELINE:
            print(format_row("", f"{name}-", "+"))


if __name__ == "__main__":
    main()
