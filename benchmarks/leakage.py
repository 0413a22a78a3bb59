"""How it flatters to judge by images of lesions that were trained on: one recipe, two splits, the same images.

    python -m benchmarks.leakage --data DIR --runs RUNS [--config.KEY=VALUE ...] > benchmarks/results/leakage.md

A fifth of the images of the ISIC archive's layout in DIR is drawn, class by class and whatever their lesions, to be
judged. Split by image, their lesions' other images are trained on. Split by lesion, they are held out. The split by
image holds out as many others of each class instead, so that both train on equally many images of each class. Then the
model of the last epoch judges the same images in both. The one was trained on siblings of theirs, the other on equally
many images of other lesions.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from input_pipeline.examples import Examples
from input_pipeline.sources.registry import read_examples
from input_pipeline.splits import format_split
from mobilenet_jax.evaluation.evaluate import predict
from mobilenet_jax.evaluation.metrics import Metrics, bootstrap, compute_metrics
from mobilenet_jax.evaluation.predictions import Predictions
from mobilenet_jax.evaluation.trained_run import read_trained_run

FIGURES = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "nll": "NLL", "macro_auc": "macro AUC"}


def main() -> None:
    """Makes the splits, trains what is not trained yet, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True, type=Path)
    args, overrides = parser.parse_known_args()
    examples = read_examples("isic2018", args.data)
    judged, by_lesion, by_image = held_out(examples)
    found = []
    for name, mask in (("by_lesion", by_lesion), ("by_image", by_image)):
        split, workdir = args.runs / f"{name}.csv", args.runs / name
        args.runs.mkdir(parents=True, exist_ok=True)
        split.write_text(format_split(examples.take(np.flatnonzero(~mask)), examples.take(np.flatnonzero(mask))))
        subprocess.run(
            [
                sys.executable, "train.py", "--config=configs/mobilenet.py:isic2018", f"--workdir={workdir}",
                f"--config.data.dir={args.data}", f"--config.data.split={split}", *overrides,
            ],
            check=True, stdout=sys.stderr,
        )  # fmt: skip
        found.append(predict(read_trained_run(workdir, "latest"), examples.take(np.flatnonzero(judged))))
    seen = np.isin(examples.lesions[judged], examples.lesions[~by_image])
    print(
        f"`python -m benchmarks.leakage --data DIR --runs RUNS {shlex.join(overrides)}`, jax {version('jax')}.\n\n"
        f"Trained on {(~by_lesion).sum():,} images in both. Of the {judged.sum():,} that are judged, {seen.sum()} show "
        "lesions of which the split by image trains on other images.\n"
    )
    _print_table(found, {"all": np.ones(len(seen), bool), "trained on": seen, "not trained on": ~seen})


def held_out(examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bool `[n]` each: the images that are judged, and what splits by lesion and by image hold out."""
    rng, n = np.random.default_rng(0), len(examples)
    _, chosen = train_test_split(np.arange(n), test_size=0.2, random_state=0, stratify=examples.labels)
    judged = np.isin(np.arange(n), chosen)
    by_lesion = np.isin(examples.lesions, examples.lesions[judged])
    siblings, by_image = by_lesion & ~judged, judged.copy()
    for label in range(len(examples.class_names)):
        others = np.flatnonzero(~by_lesion & (examples.labels == label))
        many = int((siblings & (examples.labels == label)).sum())
        by_image[rng.choice(others, many, replace=False)] = True
    return judged, by_lesion, by_image


def _print_table(found: list[Predictions], parts: dict[str, np.ndarray]) -> None:
    print("| lesions judged | images | figure | split by lesion | split by image | difference |\n" + "|---" * 6 + "|")
    for part, mask in parts.items():
        first, second = (predictions.take(np.flatnonzero(mask)) for predictions in found)
        statistic: Callable[[np.ndarray], Metrics] = lambda rows, a=first, b=second: _both(a.take(rows), b.take(rows))  # type: ignore[misc]  # noqa: E731
        values, intervals = statistic(np.arange(len(first))), bootstrap(first.lesions, statistic, 1000)
        for figure, label in FIGURES.items():
            cells = []
            for column, sign in (("lesion", ""), ("image", ""), ("difference", "+")):
                low, high = intervals[f"{column}.{figure}"]
                cells.append(f"{values[f'{column}.{figure}']:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]")
            print(f"| {part} | {len(first)} | {label} | {' | '.join(cells)} |")


def _both(first: Predictions, second: Predictions) -> Metrics:
    by_lesion, by_image = compute_metrics(first), compute_metrics(second)
    return {
        f"{column}.{figure}": value
        for figure in FIGURES
        for column, value in (
            ("lesion", by_lesion[figure]),
            ("image", by_image[figure]),
            ("difference", by_image[figure] - by_lesion[figure]),
        )
    }


if __name__ == "__main__":
    main()
