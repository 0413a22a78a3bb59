"""A picture of what training will see: real examples, each beside its augmented versions."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from input_pipeline.augment import Augmentation, sample_affine, sample_color
from input_pipeline.examples import Examples
from input_pipeline.image_ops import augment_images
from input_pipeline.tf_graph import decode_images

_VERSIONS = 8
_SHOWN = 12  # classes


def write_preview(path: Path, examples: Examples, augmentation: Augmentation, *, image_size: int, seed: int) -> None:
    """Writes a PNG with a row for the first example of each class: as it is, and as the first eight epochs see it.

    Args:
        path: where to.
        examples: of training.
        augmentation: how they are changed.
        image_size: height and width in pixels.
        seed: of the run.

    Raises:
        OSError: it cannot be written.
    """
    labels, chosen = np.unique(examples.labels, return_index=True)
    labels, chosen = labels[:_SHOWN], chosen[:_SHOWN]
    originals = np.stack(list(decode_images(examples.paths[chosen], image_size)))
    columns = [originals / np.float32(255)]
    for epoch in range(_VERSIONS):
        affine = sample_affine(augmentation, seed, epoch, len(examples), image_size)[chosen]
        color = sample_color(augmentation, seed, epoch, len(examples))[chosen]
        columns.append(augment_images(originals, affine, color, augmentation, (0.0, 1.0)))
    figure = Figure(figsize=(1.25 * len(columns), 1.25 * len(labels) + 0.3), layout="constrained")
    axes = figure.subplots(len(labels), len(columns), squeeze=False)
    for row, label in enumerate(labels):
        for column, versions in enumerate(columns):
            axis = axes[row, column]
            axis.imshow(versions[row].clip(0, 1))
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(f"epoch {column}" if column else "as it is", fontsize=9)
        axes[row, 0].set_ylabel(examples.class_names[label], fontsize=9)
    figure.savefig(png := io.BytesIO(), format="png", dpi=120)
    path.write_bytes(png.getvalue())
