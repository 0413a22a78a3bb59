"""The images that exported networks are verified and calibrated with."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from input_pipeline.image_reader import read_images
from input_pipeline.sources.registry import read_valid_examples
from mobilenet_jax.errors import DataError, EvaluationError, ExportError
from mobilenet_jax.evaluation.trained_run import TrainedRun
from mobilenet_jax.export.network import Network
from mobilenet_jax.inference.predict_files import find_images

ImageSource = Literal["validation split", "training split", "folder", "drawings"]

_BATCH = 64
_SEED = 0
_FEW, _ENOUGH = 32, 100  # images for the calibration of int8
_logger = logging.getLogger(__name__)


def read_verification_images(
    run: TrainedRun | None, data: str | None, network: Network, count: int
) -> tuple[np.ndarray, ImageSource]:
    """Reads images of the validation split of a run, or of a folder; drawings of the sample if there are neither.

    Args:
        run: the run; None for bare weights.
        data: see `read_calibration_images`.
        network: specifies height, width and preprocessing of the images.
        count: at most as many images are read.

    Returns:
        uint8 `[n, height, width, 3]` with 1 <= n <= count, and where they are from.

    Raises:
        ExportError: `data` holds no readable image.
        DataError: the images in `data` are damaged or are not those of the run.
        EvaluationError: the images in `data` have classes that the run lacks.
    """
    source: ImageSource = "folder"
    if run:
        source = "validation split" if _has_validation(run) else "training split"
    try:
        # The last ones in random order: without a validation split, the first ones are for the calibration.
        return _read(_find_paths(run, data, "validation"), network, slice(-count, None)), source
    except (DataError, EvaluationError, ExportError, OSError) as error:
        if data:
            raise
        _logger.warning("the images of the verification are drawings of lesions: %s", error)
    return _read(read_valid_examples("sample", "", "Training").paths, network, slice(count)), "drawings"


def read_calibration_images(run: TrainedRun | None, data: str | None, network: Network, count: int) -> np.ndarray:
    """Reads images of the training split of a run, or of a folder.

    Args:
        run: the run; None for bare weights.
        data: the folder of the images of the run, if it is not where they were in training; for bare weights, any
            folder of images.
        network: see `read_verification_images`.
        count: see `read_verification_images`.

    Returns:
        uint8 `[n, height, width, 3]` with 1 <= n <= count.

    Raises:
        EvaluationError, ExportError: the images cannot be read, or bare weights have no folder.
    """
    return _read(_find_paths(run, data, "training"), network, slice(count))


def warn_of_few_images(pixels: np.ndarray) -> None:
    """Warns if there are too few different images, uint8 `[n, height, width, 3]`, for the ranges of int8."""
    different = len({image.tobytes() for image in pixels})
    if different < _FEW:
        _logger.warning(
            "int8 is calibrated with %d different images only: it can be wrong on others, and a verification with the "
            "same images does not show that; %d or more are better (--data, --calibration-images)",
            different,
            _ENOUGH,
        )


def _has_validation(run: TrainedRun) -> bool:
    return bool(run.config["data"]["split"] != "all")


def _find_paths(run: TrainedRun | None, data: str | None, split: str) -> Sequence[str] | np.ndarray:
    if run:
        try:
            return run.read_examples(data, None, split if _has_validation(run) else "training").paths
        except DataError as error:
            if data:
                raise ExportError(
                    f"{error}; --data specifies the new location of the run's own images: to use others, export the "
                    "weights that `mobilenet-jax convert` writes",
                    error.details,
                ) from error
            raise ExportError(
                f"{error}; if the images were moved, specify their folder with --data=DIR, or their table with "
                "--data=FILE if data.source is csv",
                error.details,
            ) from error
    if data and Path(data).is_dir():
        return find_images([data])
    raise ExportError(
        f"{data} is not a folder" if data else "there is no folder of images: specify one with --data=DIR"
    )


def _read(paths: Sequence[str] | np.ndarray, network: Network, part: slice) -> np.ndarray:
    """Reads a part of the images in random order, always the same one: tables are often sorted by class."""
    chosen = np.random.default_rng(_SEED).permutation(len(paths))[part]
    batches = list(read_images([paths[i] for i in chosen], network.image_size, _BATCH, network.preprocessing))
    pixels, faults = np.concatenate([b.pixels for b in batches]), [fault for b in batches for fault in b.faults]
    if not len(pixels):
        raise ExportError(f"no image can be read: {faults[0]}")
    if faults:
        _logger.warning("leaving out %d of %d images, the first: %s", len(faults), len(chosen), faults[0])
    return pixels
