"""The ImageNet weights that Keras publishes, one file per width and input size."""

import errno
from pathlib import Path

import pooch

from input_pipeline.errors import get_first_line
from input_pipeline.user_cache import create_cache_folder, get_cache_folder
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.weights_file import compute_sha256

_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet/"
_ALPHA_NAMES = {1.0: "1_0", 0.75: "7_5", 0.5: "5_0", 0.25: "2_5"}
# Keras publishes no hashes. Files without one here are only checked tensor by tensor, by name and shape.
_SHA256 = {"mobilenet_2_5_224_tf_no_top.h5": "dbdb03ee2a22fd895301636cd328b234bb3a9952358f436d82f46b81e0d5b0bf"}
_SIZES = (128, 160, 192, 224)
_DEFAULT_SIZE = 224  # for all other sizes, as in Keras


def find_imagenet_weights(alpha: float, image_size: int) -> Path:
    """Returns the public Keras file for a width and an input size, downloaded once into the user's cache.

    Args:
        alpha: the width multiplier.
        image_size: in pixels. Files exist for 128, 160, 192 and 224. For any other size it is the file for 224, as in
            Keras.

    Raises:
        WeightsError: Keras publishes no weights of this width; or the file is not in the cache and cannot be loaded,
            or does not have the known SHA-256. The message names the file and its folder.
        UserError: the user's cache cannot be written.
    """
    size = image_size if image_size in _SIZES else _DEFAULT_SIZE
    if alpha not in _ALPHA_NAMES:
        raise WeightsError(
            f"Keras publishes ImageNet weights of alpha {', '.join(map(str, sorted(_ALPHA_NAMES)))}, not {alpha}: set "
            "init.weights to a file, or to None for random weights"
        )
    name = f"mobilenet_{_ALPHA_NAMES[alpha]}_{size}_tf_no_top.h5"
    folder = get_cache_folder("weights")
    if (folder / name).exists():
        if name in _SHA256 and compute_sha256(folder / name) != _SHA256[name]:
            raise WeightsError(f"{folder / name} does not have its known SHA-256: delete it and try again")
        return folder / name
    create_cache_folder("weights")
    try:
        pooch.get_logger().setLevel("WARNING")
        pooch.retrieve(_URL + name, known_hash=_SHA256.get(name), fname=name, path=folder, progressbar=True)
    except OSError as error:  # the exceptions of requests are OSErrors, and some of them ValueErrors too
        if isinstance(error, PermissionError) or error.errno in (errno.ENOSPC, errno.EROFS):
            raise WeightsError(f"cannot write {folder / name}: {error.strerror}") from error
        raise WeightsError(
            f"cannot download {name} ({type(error).__name__}): download {_URL + name} on a machine with a network "
            f"connection and put it into {folder}, or set init.weights to its path"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{_URL + name} does not match its known SHA-256: {get_first_line(error)}") from error
    return folder / name
