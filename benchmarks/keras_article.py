"""Trains with the article's Keras code on the images and the split of this project: the peer of `article.py`.

Prints a line that starts with `epoch` after an epoch and its validation, then a line of JSON. Metrics named `val_` are
computed on augmented validation images, as in the article, and metrics named `plain_` on the same images without
augmentation.
"""

import argparse
import json
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from input_pipeline.examples import Examples
from input_pipeline.sources.registry import read_examples
from input_pipeline.splits import split_examples

BATCH_SIZE = 32


def link_class_folders(examples: Examples, folder: Path) -> Path:
    """Creates the article's "new data", one folder of images per class, from links, and returns `folder`."""
    for name in examples.class_names:
        (folder / name).mkdir(parents=True)
    for path, label in zip(examples.paths, examples.labels, strict=True):
        (folder / examples.class_names[label] / Path(path).name).symlink_to(Path(path).absolute())
    return folder


def build_model(alpha: float, size: int, weights: str | None) -> keras.Model:
    """Builds the article's model, compiled with its optimizer.

    Args:
        alpha: width multiplier.
        size: height and width of the images in pixels.
        weights: path of the backbone's weights; None initializes them randomly.
    """
    backbone = keras.applications.MobileNet(
        weights=weights, include_top=False, alpha=alpha, input_shape=(size, size, 3)
    )
    x = keras.layers.Flatten()(backbone.output)
    for _ in range(2):
        x = keras.layers.Dropout(0.5)(keras.layers.Dense(1024, activation="relu")(x))
    model = keras.Model(backbone.input, keras.layers.Dense(7, activation="softmax")(x))
    model.compile(
        loss="categorical_crossentropy", optimizer=keras.optimizers.SGD(0.001, momentum=0.9), metrics=["accuracy"]
    )
    return model


def main() -> None:
    """Trains as the article does and prints the metrics of each epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--alpha", type=float, default=0.25)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    keras.utils.set_random_seed(0)

    training, validation = split_examples(read_examples("isic2018", args.data), "lesion", val_fraction=0.3, seed=0)
    augmented = ImageDataGenerator(
        rescale=1 / 255,
        horizontal_flip=True,
        fill_mode="nearest",
        zoom_range=0.3,
        width_shift_range=0.3,
        height_shift_range=0.3,
        rotation_range=30,
    )
    with tempfile.TemporaryDirectory() as folder:
        flow = {"target_size": (args.image_size,) * 2, "batch_size": BATCH_SIZE, "classes": list(training.class_names)}
        val_folder = link_class_folders(validation, Path(folder) / "validation")
        train_flow = augmented.flow_from_directory(link_class_folders(training, Path(folder) / "train"), **flow)
        val_flow = augmented.flow_from_directory(val_folder, shuffle=False, **flow)
        plain_flow = ImageDataGenerator(rescale=1 / 255).flow_from_directory(val_folder, shuffle=False, **flow)
        model = build_model(args.alpha, args.image_size, args.weights)
        for epoch in range(1, args.epochs + 1):
            fit = model.fit(train_flow, steps_per_epoch=len(training) // BATCH_SIZE, verbose=0)
            record = {"epoch": epoch, "train_accuracy": fit.history["accuracy"][0]}
            for side, batches in (("val", val_flow), ("plain", plain_flow)):
                batches.reset()
                predicted = np.argmax(model.predict(batches, verbose=0), -1)
                record[f"{side}_accuracy"] = float(accuracy_score(batches.classes, predicted))
                record[f"{side}_balanced_accuracy"] = float(balanced_accuracy_score(batches.classes, predicted))
                if side == "val":
                    print(f"epoch {epoch}", flush=True)
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
