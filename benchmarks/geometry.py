"""Compares the predictions for frames of 4:3 with those for square crops of them.

    python -m benchmarks.geometry WORKDIR... --data DATA [--tta N] > benchmarks/results/geometry.md

WORKDIR is a run, or the folds of a cross-validation; each predicts its own validation images. DATA is in the ISIC
archive's layout. A square is the center of a frame, stored as a JPEG file of the quality 95. The checkpoints are the
latest. The intervals are 95% bootstrap intervals from 1,000 samples of lesions, paired.
"""

import argparse
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps

from benchmarks.differences import print_differences
from input_pipeline.sources.isic import INPUT
from mobilenet_jax.evaluation.evaluate import predict_examples
from mobilenet_jax.evaluation.predictions import Predictions, concatenate_predictions
from mobilenet_jax.evaluation.trained_run import read_trained_run

_IMAGES = INPUT.format("Training")


def main() -> None:
    """Predicts frames and squares, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tta", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        squares = write_squares(args.data, Path(folder) / "data")
        first, second = (predict(args.workdirs, data, args.tta) for data in (args.data, squares))
    print_differences(first, second, ("frames", "squares"))


def write_squares(data: Path, folder: Path) -> Path:
    """Writes a copy of a data set whose images are the central squares, and returns its folder."""
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("*.jpg"))

    def crop(file: Path) -> None:
        with Image.open(file) as frame:
            square = ImageOps.fit(frame, (min(frame.size),) * 2)
        square.save(folder / _IMAGES / file.name, quality=95, subsampling=0)

    with ThreadPoolExecutor() as pool:
        list(pool.map(crop, sorted((data / _IMAGES).glob("*.jpg"))))
    return folder


def predict(workdirs: list[Path], data: Path, views: int) -> Predictions:
    """Returns the predictions of each run for its validation images."""
    runs = [read_trained_run(workdir, "latest") for workdir in workdirs]
    return concatenate_predictions(
        [predict_examples(run, run.read_examples(str(data), None, "validation"), views) for run in runs]
    )


if __name__ == "__main__":
    main()
