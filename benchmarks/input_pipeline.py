"""Measures images per second from JPEGs to augmented batches: this pipeline, Keras's `ImageDataGenerator`, and Grain.

    pip install grain
    python -m benchmarks.input_pipeline --data DIR [--rounds 5] [--images 992]

DIR is in the ISIC archive's layout. All pipelines read the same files in class folders, with the article's
augmentation, to 224 x 224 in batches of 32, and alternate in one process. Grain's pipeline decodes with OpenCV and
augments with this project's own functions, so that only the scheduling differs. Bare decoding of the same files, at
full size and without further operations, is the upper limit.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2
import grain.python as grain
import keras
import numpy as np
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from input_pipeline.augment import Augmentation, sample_affine, sample_color
from input_pipeline.batches import BatchOptions, make_train_batches
from input_pipeline.cache import Cache, open_cache
from input_pipeline.examples import Examples
from input_pipeline.image_ops import augment_images, resize
from input_pipeline.sources.folders import write_folders
from input_pipeline.sources.registry import read_examples

IMAGE_SIZE, BATCH_SIZE = 224, 32
ARTICLE = Augmentation(rotation=30, width_shift=0.3, height_shift=0.3, zoom=0.3, horizontal_flip=True)
OPTIONS = BatchOptions(IMAGE_SIZE, input_scaling=(0.0, 1.0), batch_size=BATCH_SIZE, seed=0)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=992, help="images per pipeline and round, a multiple of 32")
    args = parser.parse_args()
    args.images = max(1, args.images // BATCH_SIZE) * BATCH_SIZE
    with tempfile.TemporaryDirectory() as folder:
        source = read_examples("isic2018", args.data)
        write_folders(source, Path(folder) / "images")
        examples = read_examples("folders", Path(folder) / "images")
        pipelines = {
            "bare decoding": lambda: _decode(examples, args.images),
            "keras": _make_keras(Path(folder) / "images" / "Train"),
            "grain": _make_grain(examples, args.images),
            "here": _make_ours(examples, args.images),
            "here, from the memory cache": _make_ours(
                examples, args.images, open_cache("memory", examples.paths, IMAGE_SIZE)
            ),
        }
        rates = _measure(pipelines, args.images, args.rounds)
    print(
        f"keras {keras.__version__} tensorflow {tf.__version__} opencv {cv2.__version__} grain {version('grain')} "
        f"numpy {np.__version__}, {os.cpu_count()} CPU cores; {len(examples)} files, {args.images} images per pipeline "
        f"and round, {args.rounds} rounds\n"
    )
    _print_table(rates)


def _measure(pipelines: dict[str, Callable[[], int]], images: int, rounds: int) -> dict[str, list[float]]:
    """Returns the images per second of each pipeline in each round."""
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    for round_ in range(rounds + 1):
        for name, read_some in pipelines.items():
            start, done = time.perf_counter(), 0
            while done < images:
                done += read_some()
            if round_:  # the first warms up
                rates[name].append(done / (time.perf_counter() - start))
    return rates


def _print_table(rates: dict[str, list[float]]) -> None:
    print(
        "| pipeline | images/s: median | lowest | highest | ratio to Keras, median of rounds | to bare decoding |\n"
        "|---|---|---|---|---|---|"
    )
    for name, values in rates.items():
        ratios = [
            statistics.median(a / b for a, b in zip(values, rates[peer], strict=True))
            for peer in ("keras", "bare decoding")
        ]
        print(
            f"| {name} | {statistics.median(values):.0f} | {min(values):.0f} | {max(values):.0f} "
            f"| {ratios[0]:.2f} | {ratios[1]:.2f} |"
        )


def _make_keras(folder: Path) -> Callable[[], int]:
    generator = ImageDataGenerator(
        rescale=1 / 255, rotation_range=30, width_shift_range=0.3, height_shift_range=0.3, zoom_range=0.3,
        horizontal_flip=True,
    )  # fmt: skip
    flow = generator.flow_from_directory(folder, (IMAGE_SIZE, IMAGE_SIZE), batch_size=BATCH_SIZE)
    return lambda: len(next(flow)[0])


def _make_grain(examples: Examples, images: int) -> Callable[[], int]:
    n, size = len(examples), (IMAGE_SIZE, IMAGE_SIZE)
    affine, color = sample_affine(ARTICLE, 0, 0, n, IMAGE_SIZE), sample_color(ARTICLE, 0, 0, n)

    def load(i: int) -> dict[str, np.ndarray]:
        image = np.asarray(cv2.imdecode(np.fromfile(examples.paths[i], np.uint8), cv2.IMREAD_COLOR_RGB))
        parameters = affine[i : i + 1], color[i : i + 1]
        [image] = augment_images(resize(image, size)[None], *parameters, ARTICLE, OPTIONS.input_scaling)
        return {"image": image, "label": examples.labels[i]}

    def read_round() -> int:
        dataset = grain.MapDataset.source(np.arange(images) % n).shuffle(seed=0).map(load).batch(BATCH_SIZE)
        options = grain.ReadOptions(num_threads=os.cpu_count() or 1, prefetch_buffer_size=4)
        return sum(len(batch["image"]) for batch in dataset.to_iter_dataset(options))

    return read_round


def _make_ours(examples: Examples, images: int, cache: Cache | None = None) -> Callable[[], int]:
    options = dataclasses.replace(OPTIONS, cache=cache)

    def read_round() -> int:
        repeated = examples.take(np.arange(images) % len(examples))
        batches = make_train_batches(repeated, ARTICLE, options, first_step=0, last_step=images // BATCH_SIZE)
        return sum(len(batch["image"]) for batch in batches)

    return read_round


def _decode(examples: Examples, images: int) -> int:
    paths = examples.paths[np.arange(images) % len(examples)]
    dataset = tf.data.Dataset.from_tensor_slices(paths).map(
        lambda path: tf.io.decode_jpeg(tf.io.read_file(path), channels=3), num_parallel_calls=os.cpu_count()
    )
    return sum(1 for _ in dataset)


if __name__ == "__main__":
    main()
