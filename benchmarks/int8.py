"""Compares int8 LiteRT files with the models that they were exported from, on the images that no fold was trained on.

    python -m benchmarks.int8 WORKDIR... [--data DATA] [--calibration-images N] > benchmarks/results/int8.md

The workdirs are the folds of a cross-validation, with the head `small`. Each is exported with calibration images from
its own training split, and classifies its validation images, one view each. The checkpoints are the latest. The
intervals are 95% bootstrap intervals from 1,000 samples of lesions, paired.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.differences import print_differences
from input_pipeline.image_reader import read_images
from mobilenet_jax.evaluation.evaluate import predict_examples
from mobilenet_jax.evaluation.predictions import Predictions, concatenate_predictions
from mobilenet_jax.evaluation.trained_run import read_trained_run
from mobilenet_jax.export import litert
from mobilenet_jax.export.export import export_model


def main() -> None:
    """Exports, classifies, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", type=Path, nargs="+")
    parser.add_argument("--data", help="folder of the images (default: that of the run)")
    parser.add_argument("--calibration-images", type=int, default=200, help="as of `mobilenet-jax export`")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.tflite" for i in range(len(args.workdirs))]
        pairs = [
            export_and_predict(workdir, args.data, file, args.calibration_images)
            for workdir, file in zip(args.workdirs, files, strict=True)
        ]
        print(f"{max(file.stat().st_size for file in files) / 1e6:.2f} MB per file.\n")
    first, second = (concatenate_predictions(tables) for tables in zip(*pairs, strict=True))
    print_differences(first, second, ("float32", "int8"))
    same = [first.predicted == second.predicted for first, second in pairs]
    by_workdir = ", ".join(f"{agrees.mean():.1%}" for agrees in same)
    count = sum(int(agrees.sum()) for agrees in same)
    print(f"\nThe same class for {count:,} of {len(first):,} images; by workdir: {by_workdir}.")


def export_and_predict(
    workdir: Path, data: str | None, file: Path, calibration_images: int = 200
) -> tuple[Predictions, Predictions]:
    """Exports a run as int8 to `file`; returns the predictions of both for the validation images.

    Args:
        workdir: the run; the latest checkpoint counts.
        data: the folder of the images; None for that of the run.
        file: the name of the `.tflite` file.
        calibration_images: see `export_model`.
    """
    run = read_trained_run(workdir, "latest")
    examples = run.read_examples(data, None, "validation")
    expected = predict_examples(run, examples)
    export_model(workdir, file, quantize="int8", checkpoint="latest", data=data, calibration_images=calibration_images)
    classify = litert.load(file, 1)
    metadata = run.weights.metadata
    assert metadata.image_size is not None, "a run records it"
    batches = read_images(examples.paths, metadata.image_size, 64, metadata.preprocessing)
    outputs = np.concatenate([classify(image[None]) for batch in batches for image in batch.pixels])
    # In steps of 1/256, they do not add up to 1, and 0 stands for less than half a step.
    outputs = np.maximum(outputs, 1 / 512)
    outputs /= outputs.sum(1, keepdims=True)
    return expected, replace(expected, probabilities=outputs)


if __name__ == "__main__":
    main()
