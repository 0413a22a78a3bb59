"""Measures inference in images per second, here, in Keras on TensorFlow, and in LiteRT.

    python -m benchmarks.inference > benchmarks/results/inference.md

All classify the same synthetic images with the small head, in float32. `Classifier` takes uint8 pixels and scales them;
the others take scaled images.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.rounds import Side, compare, format_table, repeat, serve

CLASSES = 7
SETTINGS = ((0.25, 128, 32, 20), (0.25, 128, 1, 100), (1.0, 224, 32, 3), (1.0, 224, 1, 20))
"""Alpha, image size, batch size, steps per round."""


def make_images(batch_size: int, size: int) -> np.ndarray:
    """Returns random images."""
    return np.random.default_rng(0).random((batch_size, size, size, 3), np.float32)


def build_keras_model(alpha: float, size: int) -> Any:
    """Builds Keras's MobileNet with a small head and random weights."""
    import keras

    backbone = keras.applications.MobileNet(
        weights=None, include_top=False, alpha=alpha, input_shape=(size, size, 3), pooling="avg"
    )
    return keras.Model(backbone.input, keras.layers.Dense(CLASSES, activation="softmax")(backbone.output))


def make_keras_runner(alpha: float, size: int, batch_size: int) -> Callable[[int], None]:
    """Returns a function that classifies N batches with `predict_on_batch`."""
    model, images = build_keras_model(alpha, size), make_images(batch_size, size)
    return repeat(lambda: model.predict_on_batch(images))


def make_keras_graph_runner(alpha: float, size: int, batch_size: int) -> Callable[[int], None]:
    """Returns a function that classifies N batches with the model as one TensorFlow function."""
    import tensorflow as tf

    model, images = build_keras_model(alpha, size), tf.constant(make_images(batch_size, size))
    call = tf.function(lambda x: model(x, training=False))
    return repeat(lambda: call(images).numpy())


def make_litert_runner(alpha: float, size: int, batch_size: int) -> Callable[[int], None]:
    """Returns a function that classifies N batches in LiteRT, float32, on two threads."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(build_keras_model(alpha, size))
    interpreter = tf.lite.Interpreter(model_content=converter.convert(), num_threads=2)
    inputs, outputs = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(inputs, (batch_size, size, size, 3))
    interpreter.allocate_tensors()
    images = make_images(batch_size, size)

    def classify() -> np.ndarray:
        interpreter.set_tensor(inputs, images)
        interpreter.invoke()
        return interpreter.get_tensor(outputs)

    return repeat(classify)


def make_jax_runner(alpha: float, size: int, batch_size: int) -> Callable[[int], None]:
    """Returns a function that classifies N batches with `Classifier`."""
    from benchmarks.predict import make_classifier

    classifier = make_classifier(alpha, size)
    pixels = (255 * make_images(batch_size, size)).astype(np.uint8)
    return repeat(lambda: classifier.compute_probabilities(pixels, batch_size))


RUNNERS = {
    "Keras, predict_on_batch": make_keras_runner,
    "Keras, compiled call": make_keras_graph_runner,
    "LiteRT": make_litert_runner,
    "this project": make_jax_runner,
}


def main() -> None:
    """Runs the implementations in turn and prints a table for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("setting", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        alpha, size, batch_size = args.setting
        return serve(RUNNERS[args.side](float(alpha), int(size), int(batch_size)))

    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    packages = " ".join(f"{p} {version(p)}" for p in ("jax", "flax", "keras", "tensorflow-cpu"))
    print(f"# Speed of inference\n\n`python -m benchmarks.inference --rounds {args.rounds}`\n")
    print(f"{packages}, Python {platform.python_version()}, {os.cpu_count()} CPU cores")
    for *setting, steps in SETTINGS:
        alpha, size, batch_size = setting
        command = [sys.executable, "-m", "benchmarks.inference", *map(str, setting)]
        sides = {name: Side([*command, f"--side={name}"], environment) for name in RUNNERS}
        comparisons = compare(sides, "Keras, compiled call", args.rounds, steps)
        print(f"\nAlpha {alpha}, {size} x {size}, batch {batch_size}, {steps} steps per round\n")
        print(format_table(comparisons, int(batch_size), "Keras, compiled call"), flush=True)


if __name__ == "__main__":
    main()
