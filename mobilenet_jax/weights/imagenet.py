"""The ImageNet weights Keras publishes, one file for each width and input size."""

import os
from pathlib import Path

import pooch

from mobilenet_jax.errors import WeightsError

_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet/"
_ALPHA_NAMES = {1.0: "1_0", 0.75: "7_5", 0.5: "5_0", 0.25: "2_5"}
_SIZES = (128, 160, 192, 224)


def find_imagenet_weights(alpha: float, image_size: int) -> Path:
    """The public Keras file for a width and an input size, downloaded once into the user's cache.

    Args:
        alpha: 0.25, 0.5, 0.75 or 1.0.
        image_size: in pixels. Files exist for 128, 160, 192 and 224; any other size starts from the one for 224, as
            in Keras.

    Raises:
        WeightsError: the file is not in the cache and cannot be downloaded; the message says which file to put where.
    """
    size = image_size if image_size in _SIZES else 224
    name = f"mobilenet_{_ALPHA_NAMES[alpha]}_{size}_tf_no_top.h5"
    folder = Path(pooch.os_cache("mobilenet-jax")) / "weights"
    if (folder / name).exists():
        return folder / name
    try:
        os.makedirs(folder, exist_ok=True)
        pooch.get_logger().setLevel("WARNING")
        # Keras publishes no hash of these files; load_pretrained checks every tensor by name and shape instead.
        pooch.retrieve(_URL + name, known_hash=None, fname=name, path=folder, progressbar=True)
    except OSError as error:  # requests' errors are OSErrors too
        raise WeightsError(
            f"cannot download {name} ({type(error).__name__}): fetch {_URL + name} on a machine with network and put "
            f"it into {folder}, or give its path as init.weights"
        ) from error
    return folder / name
