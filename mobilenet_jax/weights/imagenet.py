"""The ImageNet weights that Keras publishes, one file per width and input size."""

import os
from pathlib import Path

import pooch

from mobilenet_jax.errors import WeightsError

_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet/"
_ALPHA_NAMES = {1.0: "1_0", 0.75: "7_5", 0.5: "5_0", 0.25: "2_5"}
_SIZES = (128, 160, 192, 224)
_DEFAULT_SIZE = 224  # for all other sizes, as in Keras


def find_imagenet_weights(alpha: float, image_size: int) -> Path:
    """Returns the public Keras file for a width and an input size, downloaded once into the user's cache.

    Args:
        alpha: 0.25, 0.5, 0.75 or 1.0.
        image_size: in pixels. Files exist for 128, 160, 192 and 224. For any other size it is the file for 224, as in
            Keras.

    Raises:
        WeightsError: the file is not in the cache and cannot be downloaded. The message names the file and its folder.
    """
    size = image_size if image_size in _SIZES else _DEFAULT_SIZE
    name = f"mobilenet_{_ALPHA_NAMES[alpha]}_{size}_tf_no_top.h5"
    folder = Path(pooch.os_cache("mobilenet-jax")) / "weights"
    if (folder / name).exists():
        return folder / name
    try:
        os.makedirs(folder, exist_ok=True)
        pooch.get_logger().setLevel("WARNING")
        # Keras publishes no hash of these files. Every tensor is compared by name and shape instead when they are read.
        pooch.retrieve(_URL + name, known_hash=None, fname=name, path=folder, progressbar=True)
    except OSError as error:  # the exceptions of requests are OSErrors too
        raise WeightsError(
            f"cannot download {name} ({type(error).__name__}): download {_URL + name} on a machine with a network "
            f"connection and put it into {folder}, or set init.weights to its path"
        ) from error
    return folder / name
