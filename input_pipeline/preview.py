"""Draws a picture of the images that training will see: examples next to their augmented versions."""

import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from input_pipeline.atomic_files import write_atomically
from input_pipeline.augment import Augmentation, sample_affine, sample_color
from input_pipeline.examples import Examples
from input_pipeline.fonts import find_fonts
from input_pipeline.image_ops import augment_images, scale_pixels
from input_pipeline.preprocessing import STRETCH, Preprocessing
from input_pipeline.tf_graph import decode_images

_EPOCHS = 8
_MAX_CLASSES = 12
_INCHES = 1.25  # per image
_UNIT_RANGE = (0.0, 1.0)  # the range of matplotlib's float images


def write_preview(
    path: Path,
    examples: Examples,
    augmentation: Augmentation,
    *,
    image_size: int,
    preprocessing: Preprocessing = STRETCH,
    seed: int,
) -> None:
    """Writes a PNG with one row per class: its first example, unchanged and as the first eight epochs augment it.

    With balanced sampling, an epoch augments an example by the values of its places in the epoch, which are others.
    Classes after the twelfth have no row.

    Args:
        path: the file to write.
        examples: the training examples.
        augmentation: the ranges of the random augmentation.
        image_size: height and width in pixels.
        preprocessing: of the image files.
        seed: seed of the run.

    Raises:
        OSError: the file cannot be written.
    """
    labels, indices = np.unique(examples.labels, return_index=True)
    labels, indices = labels[:_MAX_CLASSES], indices[:_MAX_CLASSES]
    originals = np.stack(list(decode_images(examples.paths[indices], image_size, preprocessing)))
    columns = {"unchanged": scale_pixels(originals, _UNIT_RANGE)}
    for epoch in range(_EPOCHS):
        affine = sample_affine(augmentation, seed, epoch, len(examples), image_size)[indices]
        color = sample_color(augmentation, seed, epoch, len(examples))[indices]
        columns[f"epoch {epoch + 1}"] = augment_images(originals, affine, color, augmentation, _UNIT_RANGE)
    names = [examples.class_names[label] for label in labels]
    # The name of a class may contain dollar signs.
    with matplotlib.rc_context({"text.parse_math": False, "font.family": find_fonts(names)}):
        figure = _draw_grid(columns, names)
        figure.savefig(png := io.BytesIO(), format="png", dpi=120)
    write_atomically(path, png.getvalue())


def _draw_grid(columns: dict[str, np.ndarray], row_names: list[str]) -> Figure:
    """Draws images in a grid; each column is float32 `[rows, height, width, 3]`, from 0 to 1, with a title."""
    size = (_INCHES * len(columns), _INCHES * len(row_names) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(row_names), len(columns), squeeze=False)
    for column, (title, images) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize=9)
        for axis, image in zip(axes[:, column], images, strict=True):
            axis.imshow(image.clip(0, 1))
            axis.set(xticks=[], yticks=[])
    for axis, name in zip(axes[:, 0], row_names, strict=True):
        axis.set_ylabel(name, fontsize=9)
    return figure
