"""Compares `mobilenet-jax predict` with the bare model: images per second, and peak memory.

    python -m benchmarks.predict MODEL IMAGES... > benchmarks/results/predict.md

MODEL is a workdir or weights with a classifier. IMAGES are files, folders or glob patterns. The bare model reads pixels
that are in memory already. The two alternate.
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
from mobilenet_jax.inference.classifier import Classifier
from mobilenet_jax.inference.predict_files import find_images, write_predictions
from mobilenet_jax.weights.load import read_weights

BATCH = 64


def main() -> None:
    """Runs all rounds, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("images", nargs="+", metavar="IMAGES")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    args = parser.parse_args()
    classifier, paths = Classifier(read_weights(args.model)), find_images(args.images)
    pixels = next(read_images(paths, classifier.image_size, BATCH)).pixels
    _measure_model(classifier, pixels, BATCH)  # compiles the model
    print(
        f"jax {version('jax')} opencv {version('opencv-python-headless')} Python {platform.python_version()}, "
        f"{os.cpu_count()} CPU cores; alpha {classifier.model.alpha}, {' x '.join(map(str, classifier.image_size))}, "
        f"{len(paths):,} files, batches of {BATCH}\n\n| round | bare model: images/s | predict: images/s | ratio "
        "| peak memory, MB |\n" + "|---" * 5 + "|"
    )
    ratios = []
    for i in range(args.rounds):
        bare = _measure_model(classifier, pixels, len(paths))
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            write_predictions(classifier, paths, Path(folder) / "p.csv", batch_size=BATCH)
            whole = len(paths) / (time.perf_counter() - start)
        ratios.append(whole / bare)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"| {i + 1} | {bare:,.0f} | {whole:,.0f} | {ratios[-1]:.2f} | {peak:,.0f} |", flush=True)
    print(f"\nMedian ratio: {statistics.median(ratios):.2f}")


def _measure_model(classifier: Classifier, pixels: np.ndarray, images: int) -> float:
    """Returns the images per second of the model alone."""
    start = time.perf_counter()
    for _ in range(0, images, BATCH):
        classifier.compute_probabilities(pixels, BATCH)
    return images / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
