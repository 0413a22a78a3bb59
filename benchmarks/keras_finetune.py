"""Fine-tunes with Keras's transfer-learning guide: the peer of `finetune.py`.

The guide (`guides/transfer_learning.py` of keras-team/keras-io) trains a new head on a frozen backbone for 20 epochs,
then the whole model at a low rate for 10. BatchNorm is in inference mode throughout. The backbone differs from the
guide's: MobileNet instead of Xception. With `--class-weights`, the classes count equally in the loss, which the guide
does not do. Prints the metrics as one line of JSON.
"""

import argparse
import json

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight

from input_pipeline.image_reader import read_images
from input_pipeline.sources.registry import read_split

BATCH_SIZE = 32
PHASES = ((1e-3, 20), (1e-5, 10))  # (learning rate, epochs): the head alone, then all layers


def build_model(classes: int, size: int, alpha: float, weights: str) -> tuple[keras.Model, keras.Model]:
    """Builds the model of the guide and returns it with its backbone.

    Args:
        classes: number of classes.
        size: height and width of the images in pixels.
        alpha: width multiplier.
        weights: path of the backbone's weights.
    """
    backbone = keras.applications.MobileNet(
        weights=weights, include_top=False, alpha=alpha, input_shape=(size, size, 3)
    )
    inputs = keras.Input((size, size, 3))
    x = keras.layers.RandomRotation(0.1)(keras.layers.RandomFlip("horizontal")(inputs))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = keras.layers.GlobalAveragePooling2D()(backbone(x, training=False))
    outputs = keras.layers.Dense(classes)(keras.layers.Dropout(0.2)(x))
    return keras.Model(inputs, outputs), backbone


def main() -> None:
    """Trains both phases and prints the metrics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="a table of images, see docs/data.md")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--alpha", type=float, default=0.25)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--class-weights", action="store_true")
    args = parser.parse_args()
    keras.utils.set_random_seed(args.seed)

    training, validation = read_split("csv", args.data, "given", val_fraction=0.0, seed=0)
    size = (args.image_size, args.image_size)
    images, val_images = (next(iter(read_images(list(e.paths), size, len(e)))).pixels for e in (training, validation))
    batches = tf.data.Dataset.from_tensor_slices((images, training.labels))
    classes = range(len(training.class_names))
    weights = compute_class_weight("balanced", classes=np.array(classes), y=training.labels)
    class_weight = dict(zip(classes, weights, strict=True)) if args.class_weights else None
    batches = batches.shuffle(len(training), seed=args.seed).batch(BATCH_SIZE).prefetch(2)
    model, backbone = build_model(len(classes), args.image_size, args.alpha, args.weights)
    for trainable, (rate, epochs) in zip((False, True), PHASES, strict=True):
        backbone.trainable = trainable
        model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(batches, epochs=epochs, class_weight=class_weight, verbose=0)
    predicted = model.predict(val_images, verbose=0).argmax(-1)
    metrics = {"balanced_accuracy": balanced_accuracy_score, "accuracy": accuracy_score}
    print(json.dumps({name: float(compute(validation.labels, predicted)) for name, compute in metrics.items()}))


if __name__ == "__main__":
    main()
