"""Measures how optimistic an evaluation is on lesions with other images in training: one recipe, two splits.

    python -m benchmarks.leakage --data DIR --runs RUNS [--config.KEY=VALUE ...] > benchmarks/results/leakage.md

A fifth of the images in DIR, which is in the ISIC archive's layout, is sampled class by class, regardless of lesions.
Both runs are evaluated on these images. The run split by image trains on the other images of their lesions. The run
split by lesion holds those out. The run split by image holds out as many others of each class instead, so that both
train on equally many images of each class. Runs in RUNS that are finished are not trained again.
"""

import argparse
import functools
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from input_pipeline.examples import Examples
from input_pipeline.sources.registry import read_examples
from input_pipeline.splits import format_split
from mobilenet_jax.evaluation.bootstrap import compute_intervals
from mobilenet_jax.evaluation.evaluate import predict_examples
from mobilenet_jax.evaluation.metrics import OVERALL, Metrics, compute_metrics
from mobilenet_jax.evaluation.predictions import Predictions
from mobilenet_jax.evaluation.trained_run import read_trained_run

METRICS = ("balanced_accuracy", "accuracy", "nll", "macro_auc")


def main() -> None:
    """Writes the splits, trains both runs, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the images")
    parser.add_argument("--runs", required=True, type=Path, help="folder of the two workdirs")
    args, overrides = parser.parse_known_args()
    examples = read_examples("isic2018", args.data)
    evaluated, by_lesion, by_image = select_images(examples)
    args.runs.mkdir(parents=True, exist_ok=True)
    tables = []
    for name, held_out in (("by_lesion", by_lesion), ("by_image", by_image)):
        split = args.runs / f"{name}.csv"
        split.write_text(
            format_split(examples.take(np.flatnonzero(~held_out)), examples.take(np.flatnonzero(held_out)))
        )
        _train(args.data, split, args.runs / name, overrides)
        run = read_trained_run(args.runs / name, "latest")
        tables.append(predict_examples(run, examples.take(np.flatnonzero(evaluated))))
    trained_on = np.isin(examples.lesions[evaluated], examples.lesions[~by_image])
    print(
        f"`python -m benchmarks.leakage --data DIR --runs RUNS {shlex.join(overrides)}`, jax {version('jax')}.\n\n"
        f"Both runs are trained on {(~by_lesion).sum():,} images. Of the {evaluated.sum():,} evaluated images, "
        f"{trained_on.sum()} show lesions that have other images in the training set of the split by image.\n"
    )
    _print_table(tables, {"all": np.ones_like(trained_on), "trained on": trained_on, "not trained on": ~trained_on})


def select_images(examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Selects the evaluated images, and the images that the split by lesion and the split by image hold out.

    Returns:
        Three masks, bool `[n]` each.
    """
    rng, n = np.random.default_rng(0), len(examples)
    _, sampled = train_test_split(np.arange(n), test_size=0.2, random_state=0, stratify=examples.labels)
    evaluated = np.isin(np.arange(n), sampled)
    by_lesion = np.isin(examples.lesions, examples.lesions[evaluated])
    siblings, by_image = by_lesion & ~evaluated, evaluated.copy()
    for label in range(len(examples.class_names)):
        others = np.flatnonzero(~by_lesion & (examples.labels == label))
        count = int((siblings & (examples.labels == label)).sum())
        by_image[rng.choice(others, count, replace=False)] = True
    return evaluated, by_lesion, by_image


def _train(data: str, split: Path, workdir: Path, overrides: list[str]) -> None:
    """Trains a run, or resumes it if it is not finished."""
    subprocess.run(
        [
            sys.executable, "train.py", "--config=configs/mobilenet.py:isic2018", f"--workdir={workdir}",
            f"--config.data.dir={data}", f"--config.data.split={split}", *overrides,
        ],
        check=True, stdout=sys.stderr,
    )  # fmt: skip


def _print_table(tables: list[Predictions], parts: dict[str, np.ndarray]) -> None:
    """Prints the metrics of both runs on each part of the images, with their paired difference."""
    print(
        "| evaluated lesions | images | metric | split by lesion | split by image | difference |\n" + "|---" * 6 + "|"
    )
    for part, mask in parts.items():
        first, second = (predictions.take(np.flatnonzero(mask)) for predictions in tables)
        statistic = functools.partial(_compare, first, second)
        values, intervals = (
            statistic(np.arange(len(first))),
            compute_intervals(first.lesions, first.labels, statistic, 1000),
        )
        for metric in METRICS:
            cells = []
            for column, sign in (("lesion", ""), ("image", ""), ("difference", "+")):
                low, high = intervals[f"{column}.{metric}"]
                cells.append(f"{values[f'{column}.{metric}']:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]")
            print(f"| {part} | {len(first)} | {OVERALL[metric].label} | {' | '.join(cells)} |")


def _compare(first: Predictions, second: Predictions, rows: np.ndarray) -> Metrics:
    by_lesion, by_image = compute_metrics(first.take(rows)), compute_metrics(second.take(rows))
    return {
        f"{column}.{metric}": value
        for metric in METRICS
        for column, value in (
            ("lesion", by_lesion[metric]),
            ("image", by_image[metric]),
            ("difference", by_image[metric] - by_lesion[metric]),
        )
    }


if __name__ == "__main__":
    main()
