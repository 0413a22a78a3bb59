"""Predictions: the probabilities of a model for labeled images, from which every metric is computed."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input_pipeline.csv_cells import escape_formula, unescape_formula
from mobilenet_jax.errors import EvaluationError

_COLUMNS = ("image", "lesion", "label", "predicted")


@dataclass(frozen=True, eq=False)
class Predictions:
    """A table with one row per image.

    Attributes:
        images: `[n]` str, file names without their suffix, or relative paths where file names repeat.
        lesions: `[n]` str, the lesion that the image shows.
        labels: `[n]` int32, indices into `class_names`.
        probabilities: float64 `[n, classes]`, each row a distribution.
        class_names: in the order of the labels.
    """

    images: np.ndarray
    lesions: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, int `[n]`; the first one of equals."""
        return self.probabilities.argmax(1)

    @property
    def lesions_known(self) -> bool:
        """True if the data specify which images show the same lesion; otherwise each image counts as its own lesion."""
        return bool((self.lesions != self.images).any())

    def take(self, indices: np.ndarray) -> "Predictions":
        """Returns the rows at `indices`."""
        return Predictions(
            self.images[indices],
            self.lesions[indices],
            self.labels[indices],
            self.probabilities[indices],
            self.class_names,
        )

    def to_csv(self) -> str:
        """Formats a CSV table: `image`, `lesion`, `label`, `predicted`, and one column of probabilities per class.

        Names that a spreadsheet would run as a formula begin with an apostrophe, see `input_pipeline/csv_cells.py`.
        """
        writer = csv.writer(text := io.StringIO(), lineterminator="\n")
        names = list(map(escape_formula, self.class_names))
        writer.writerow([*_COLUMNS, *names])
        for image, lesion, label, predicted, row in zip(
            self.images, self.lesions, self.labels, self.predicted, self.probabilities, strict=True
        ):
            cells = [escape_formula(image), escape_formula(lesion), names[label], names[predicted]]
            writer.writerow([*cells, *(f"{p:.9g}" for p in row)])
        return text.getvalue()


def concatenate_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Concatenates the rows of tables with the same classes."""
    images, lesions, labels, probabilities = (
        np.concatenate([getattr(part, column) for part in parts])
        for column in ("images", "lesions", "labels", "probabilities")
    )
    return Predictions(images, lesions, labels, probabilities, parts[0].class_names)


def is_table_of_predictions(path: Path) -> bool:
    """Returns whether a file begins like a table that `Predictions.to_csv` formatted."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return file.readline().startswith(f"{','.join(_COLUMNS)},")
    except (OSError, UnicodeDecodeError):
        return False


def read_predictions(path: Path) -> Predictions:
    """Reads a table that `Predictions.to_csv` formatted.

    Raises:
        EvaluationError: the file is missing or is not such a table.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file, strict=True)
        names = tuple(map(unescape_formula, header[len(_COLUMNS) :]))
        if tuple(header[: len(_COLUMNS)]) != _COLUMNS or not names or not rows:
            raise ValueError("it is not a table of predictions")
        images, lesions, labels, _ = (np.array([unescape_formula(r[i]) for r in rows]) for i in range(len(_COLUMNS)))
        if len(set(images)) < len(images):
            raise ValueError("an image has several rows")
        index = {name: i for i, name in enumerate(names)}
        probabilities = np.array([row[len(_COLUMNS) :] for row in rows], np.float64)
        if not ((probabilities >= 0) & (probabilities <= 1)).all() or not probabilities.any(1).all():
            raise ValueError("the probabilities of an image are not between 0 and 1, or all 0")
        return Predictions(
            images,
            lesions,
            np.array([index[label] for label in labels], np.int32),
            probabilities / probabilities.sum(1, keepdims=True),  # the file holds rounded values
            names,
        )
    except FileNotFoundError as error:
        raise EvaluationError(f"{path} is missing: run mobilenet-jax evaluate first") from error
    except (OSError, ValueError, KeyError, IndexError, csv.Error) as error:
        raise EvaluationError(f"cannot read {path} ({error}): run mobilenet-jax evaluate again") from error
