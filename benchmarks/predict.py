"""Compares `mobilenet-jax predict` with the bare model: images per second, and peak memory.

    python -m benchmarks.predict --data DIR > benchmarks/results/predict.md

DIR is in the ISIC archive's layout. The models have the small head and random weights. The bare model reads pixels that
are in memory already. The two alternate.
"""

import argparse
import os
import platform
import resource
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from input_pipeline.image_reader import read_images
from input_pipeline.sources.registry import read_examples
from mobilenet_jax.inference.classifier import Classifier
from mobilenet_jax.inference.predict_files import write_predictions
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.weights import Weights

BATCH = 64
SETTINGS = ((0.25, 128, 10_000), (1.0, 224, 640))  # alpha, image size, files per round


def main() -> None:
    """Runs all rounds, and prints a table for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    paths = read_examples("isic2018", args.data).paths.tolist()
    packages = " ".join(f"{p} {version(p)}" for p in ("jax", "opencv-python-headless"))
    print(f"# Speed of `predict`\n\n`python -m benchmarks.predict --data DIR --rounds {args.rounds}`\n")
    print(f"{packages}, Python {platform.python_version()}, {os.cpu_count()} CPU cores")
    for alpha, size, images in SETTINGS:
        classifier = make_classifier(alpha, size)
        print(f"\nAlpha {alpha}, {size} x {size}, {images:,} files per round, batches of {BATCH}\n")
        print("| round | bare model: images/s | predict: images/s | ratio | peak memory, MB |\n|---|---|---|---|---|")
        ratios = compare(classifier, paths[:images], args.rounds)
        print(f"\nMedian ratio: {statistics.median(ratios):.2f}", flush=True)


def make_classifier(alpha: float, size: int) -> Classifier:
    """Returns a classifier with the small head and random weights, for seven classes."""
    architecture, rng = Architecture(alpha, "small", 7, 1), np.random.default_rng(0)
    tensors = {name: rng.random(shape, np.float32) for name, shape in architecture.compute_shapes().items()}
    return Classifier(Weights("", "", architecture, tensors, Metadata((size, size))))


def compare(classifier: Classifier, paths: list[str], rounds: int) -> list[float]:
    """Prints a row for each round, and returns the ratios."""
    pixels = next(read_images(paths, classifier.image_size, BATCH)).pixels
    _measure_model(classifier, pixels, BATCH)  # compiles the model
    ratios = []
    for i in range(rounds):
        bare = _measure_model(classifier, pixels, len(paths))
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            write_predictions(classifier, paths, Path(folder) / "p.csv", batch_size=BATCH)
            whole = len(paths) / (time.perf_counter() - start)
        ratios.append(whole / bare)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"| {i + 1} | {bare:,.0f} | {whole:,.0f} | {ratios[-1]:.2f} | {peak:,.0f} |", flush=True)
    return ratios


def _measure_model(classifier: Classifier, pixels: np.ndarray, images: int) -> float:
    """Returns the images per second of the model alone."""
    start = time.perf_counter()
    for _ in range(0, images, BATCH):
        classifier.compute_probabilities(pixels, BATCH)
    return images / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
