"""Measures `configs/finetune.py` on subsets of real images, beside Keras's transfer-learning guide.

    python -m benchmarks.finetune --data DIR --weights FILE --runs RUNS > benchmarks/results/finetune.md

DIR is in the ISIC archive's layout. A fifth of its lesions is held out, and one image of each is evaluated; the subsets
are sampled from the remaining images, a different one for each seed. Both methods get the same images, the same size of
images and the same initial weights. Finished runs in RUNS are not repeated: use an empty folder after a change.
"""

import argparse
import csv
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.examples import Examples
from input_pipeline.sources.registry import read_examples
from input_pipeline.splits import split_examples

SEEDS = (0, 1, 2)
MIN_PER_CLASS = 2  # training images


class Case(NamedTuple):
    """A subset of the images.

    Attributes:
        name: shown in the table.
        images: number of training images.
        image_size: height and width in pixels.
        classes: the classes of the subset, equally many images of each; None for all classes, as frequent as they are.
        val_per_class: number of validation images of each class; None for all.
    """

    name: str
    images: int
    image_size: int = 128
    classes: tuple[str, ...] | None = None
    val_per_class: int | None = None


CASES = (
    Case("50", 50),
    Case("250", 250),
    Case("252, three classes", 252, 96, ("BCC", "MEL", "NV"), 36),
    Case("1,000", 1000),
    Case("7,000", 7000),
)


def main() -> None:
    """Writes the subsets, trains both sides, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the images")
    parser.add_argument("--weights", required=True, help="the backbone's weights, alpha 0.25, as a Keras file")
    parser.add_argument("--runs", required=True, type=Path, help="folder for the tables of images and the results")
    args = parser.parse_args()
    training, held_out = split_examples(read_examples("isic2018", args.data), "lesion", val_fraction=0.2, seed=0)
    _, first = np.unique(held_out.lesions, return_index=True)
    validation = held_out.take(np.sort(first))
    results: dict[str, dict[str, list[Any]]] = {}
    for case in CASES:
        for seed in SEEDS:
            folder = args.runs / f"{case.name.replace(', ', '-').replace(' ', '-')}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            write_table(folder / "images.csv", *sample_case(case, training, validation, seed))
            for method, train in METHODS.items():
                file = folder / f"{method}.json"
                if not file.exists():
                    file.write_text(json.dumps(train(folder, case, seed, args.weights)))
                results.setdefault(case.name, {}).setdefault(method, []).append(json.loads(file.read_text()))
    print_results(results, len(validation))


def sample_case(case: Case, training: Examples, validation: Examples, seed: int) -> tuple[Examples, Examples]:
    """Returns the training and the validation images of a case."""
    rng = np.random.default_rng(seed)
    counts = np.bincount(training.labels, minlength=len(training.class_names))
    if case.classes is None:
        shares = np.maximum(np.round(counts * case.images / len(training)), MIN_PER_CLASS).astype(int)
        shares[counts.argmax()] += case.images - shares.sum()
        return training.take(_sample(training, shares, rng)), validation
    chosen = np.isin(training.class_names, case.classes)
    val_shares = chosen * (case.val_per_class or 0)
    return (
        training.take(_sample(training, chosen * (case.images // len(case.classes)), rng)),
        validation.take(_sample(validation, val_shares, np.random.default_rng(0))),
    )


def _sample(examples: Examples, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the indices of `shares[c]` random images of each class c, in order."""
    indices = [rng.choice(np.flatnonzero(examples.labels == c), n, replace=False) for c, n in enumerate(shares)]
    return np.sort(np.concatenate(indices))


def write_table(path: Path, training: Examples, validation: Examples) -> None:
    """Writes the table of images that both methods read."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "group", "split"))
        for split, examples in (("train", training), ("val", validation)):
            for image, label, lesion in zip(examples.paths, examples.labels, examples.lesions, strict=True):
                writer.writerow((Path(image).absolute(), examples.class_names[label], lesion, split))


def train_keras(folder: Path, case: Case, seed: int, weights: str, *options: str) -> dict[str, Any]:
    """Trains as in the guide and returns the metrics after its second phase."""
    command = [
        sys.executable, "-m", "benchmarks.keras_finetune", f"--data={folder / 'images.csv'}", f"--weights={weights}",
        f"--image-size={case.image_size}", f"--seed={seed}", *options,
    ]  # fmt: skip
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def train_weighted_keras(folder: Path, case: Case, seed: int, weights: str) -> dict[str, Any]:
    """Trains as in the guide with balanced class weights and returns the metrics after its second phase."""
    return train_keras(folder, case, seed, weights, "--class-weights")


def train_recipe(folder: Path, case: Case, seed: int, weights: str) -> dict[str, Any]:
    """Trains with the recipe and returns the metrics of the last epoch, and the balanced accuracy of the best one."""
    command = [
        sys.executable, "train.py", "--config=configs/finetune.py", "--config.data.source=csv",
        f"--config.data.dir={folder / 'images.csv'}", "--config.data.split=given", f"--workdir={folder / 'run'}",
        f"--config.data.image_size={case.image_size}", f"--config.seed={seed}", f"--config.init.weights={weights}",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=sys.stderr)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    last, best = summary["last"], summary["best"]
    return {
        "balanced_accuracy": last["val_balanced_accuracy"],
        "accuracy": last["val_accuracy"],
        "best": best["val_balanced_accuracy"],
    }


METHODS = {"keras": train_keras, "weighted": train_weighted_keras, "recipe": train_recipe}


def print_results(results: dict[str, dict[str, list[Any]]], images: int) -> None:
    """Prints the tables."""
    print(
        f"`python -m benchmarks.finetune --data DIR --weights FILE --runs RUNS`, jax {version('jax')}, keras "
        f"{version('keras')}, tensorflow-cpu {version('tensorflow-cpu')}, 2 CPU cores.\n\n"
        f"Metrics after the last epoch on {images:,} held-out images, one per lesion (108 for three classes): mean of "
        f"{len(SEEDS)} subsets, and each of them."
    )
    for metric in ("balanced_accuracy", "accuracy"):
        print(
            f"\n{metric.replace('_', ' ').capitalize()}:\n\n"
            "| training images | guide | guide, class weights | recipe | difference | difference from class weights |\n"
            "|---|---|---|---|---|---|"
        )
        differences = []
        for name, methods in results.items():
            values = [np.array([run[metric] for run in methods[method]]) for method in METHODS]
            differences.append([values[-1].mean() - other.mean() for other in values[:-1]])
            cells = [f"{v.mean():.3f} ({', '.join(f'{run:.3f}' for run in v)})" for v in values]
            cells += [f"{difference:+.3f}" for difference in differences[-1]]
            print(f"| {name} | {' | '.join(cells)} |")
        print(f"| mean | | | | {' | '.join(f'{d:+.3f}' for d in np.mean(differences, axis=0))} |")
    best = [f"{np.mean([run['best'] for run in methods['recipe']]):.3f}" for methods in results.values()]
    print(f"\nBalanced accuracy of the recipe in its best epoch, in the order of the rows: {', '.join(best)}.")


if __name__ == "__main__":
    main()
