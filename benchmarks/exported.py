"""Compares exported LiteRT files with the JAX model on validation images, and with a network converted from Keras.

    python -m benchmarks.exported WORKDIR ... > benchmarks/results/exported.md

The workdirs are of runs with the head `small`. Each is exported in float32, float16 and int8. The times are of single
images on one thread; the files take turns over nine rounds.
"""

import contextlib
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.metrics import balanced_accuracy_score

from input_pipeline.image_reader import read_images
from mobilenet_jax.evaluation.trained_run import read_trained_run
from mobilenet_jax.export import litert
from mobilenet_jax.export.export import export_model
from mobilenet_jax.export.formats import Quantization
from mobilenet_jax.export.network import Network

_QUANTIZATIONS: tuple[Quantization, ...] = ("none", "float16", "int8")
_IMAGES, _ROUNDS, _IMAGES_PER_ROUND = 1000, 9, 50


def main() -> None:
    """Prints one table per run."""
    print("# Exported LiteRT files\n\n`python -m benchmarks.exported WORKDIR ...`\n")
    packages = ("jax", "litert-converter", "litert-quantizer", "ai-edge-litert", "tensorflow-cpu", "keras")
    versions = " ".join(f"{name} {version(name)}" for name in packages)
    print(f"{versions}, Python {platform.python_version()}, {os.cpu_count()} CPU cores\n")
    print("Agreement and differences are relative to the JAX model; time is the median "
          f"of {_ROUNDS} rounds in milliseconds per image, on one thread.\n")  # fmt: skip
    for workdir in sys.argv[1:]:
        _compare(Path(workdir))


def _compare(workdir: Path) -> None:
    run = read_trained_run(workdir)
    network, validation = Network(run.weights), run.read_examples(None, None, "validation")
    chosen = np.sort(np.random.default_rng(1).permutation(len(validation))[:_IMAGES])
    batches = read_images([validation.paths[i] for i in chosen], network.image_size, 64, network.preprocessing)
    pixels, labels = np.concatenate([batch.pixels for batch in batches]), validation.labels[chosen]
    expected = network.compute_reference(pixels)
    accuracy = balanced_accuracy_score(labels, expected.argmax(1))
    size = network.image_size[0]
    print(f"## alpha {run.weights.architecture.alpha}, {size} x {size}, {len(chosen)} validation images, "
          f"balanced accuracy {accuracy:.3f}\n")  # fmt: skip
    print("| file | MB | operations | largest difference | mean | same top class | balanced accuracy, ratio | ms |")
    print("|" + "---|" * 8)
    with tempfile.TemporaryDirectory() as folder:
        paths: dict[str, Path] = {}
        for quantize in _QUANTIZATIONS:
            paths[quantize] = path = Path(folder) / f"{quantize}.tflite"
            export_model(workdir, path, quantize=quantize)
        paths["Keras"] = _convert_keras(network, Path(folder) / "keras.tflite")
        runs = {name: litert.load(path, 1) for name, path in paths.items()}
        times = measure_times({name: (run, pixels[:_IMAGES_PER_ROUND]) for name, run in runs.items()})
        for name, path in paths.items():
            cells = [f"{path.stat().st_size / 1e6:.2f}", str(sum(litert.count_operations(path).values()))]
            if name == "Keras":
                cells += [""] * 4
            else:
                outputs = np.concatenate([runs[name](image[None]) for image in pixels])
                difference = np.abs(outputs - expected)
                agreement = (outputs.argmax(1) == expected.argmax(1)).mean()
                ratio = balanced_accuracy_score(labels, outputs.argmax(1)) / accuracy
                cells += [f"{difference.max():.2g}", f"{difference.mean():.2g}", f"{agreement:.1%}", f"{ratio:.1%}"]
            print(f"| {name} | {' | '.join(cells)} | {times[name]:.2f} |")
    print(flush=True)


def _convert_keras(network: Network, path: Path) -> Path:
    """Converts Keras's MobileNet of the same architecture, with random weights, by TensorFlow's converter."""
    import keras
    import tensorflow as tf

    image = keras.Input(network.input_shape[1:], batch_size=1, dtype="uint8")
    alpha, classes = network.weights.architecture.alpha, network.weights.architecture.num_classes
    backbone = keras.applications.MobileNet(network.input_shape[1:], alpha, include_top=False, weights=None)
    x = keras.layers.GlobalAveragePooling2D()(backbone(keras.layers.Rescaling(2 / 255, -1)(image)))
    model = keras.Model(image, keras.layers.Dense(classes, "softmax")(x))
    with contextlib.redirect_stdout(sys.stderr):
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return path


def measure_times(runs: dict[str, tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]]) -> dict[str, float]:
    """Returns the median time per image in milliseconds of each file, of which all take turns.

    Args:
        runs: the function that classifies a batch of one image, and the images, by the name of the file.
    """
    rounds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_ROUNDS + 1):  # the first one warms up
        for name, (run, pixels) in runs.items():
            start = time.perf_counter()
            for image in pixels:
                run(image[None])
            rounds[name].append(1000 * (time.perf_counter() - start) / len(pixels))
    return {name: statistics.median(seconds[1:]) for name, seconds in rounds.items()}


if __name__ == "__main__":
    main()
