"""The table every source is read into, and the error every source raises."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from input_pipeline.errors import DataError

Part = Literal["Training", "Validation", "Test"]  # of the archive's sets
Batch = dict[str, np.ndarray]  # columns of one length


class Faults(list[str]):
    """What is wrong with a data set, a line each: collected to be told all at once."""

    def raise_if_any(self) -> None:
        """Ends with an error that has all of them in its `details`.

        Raises:
            DataError: there are any.
        """
        if self:
            more = f"{len(self)} things are wrong with the data, the first is: " if len(self) > 1 else ""
            raise DataError(more + self[0], details=self)


@dataclass(frozen=True, eq=False)
class Examples:
    """A list of images with what is known of each: four columns of one length. No pixels are held.

    Attributes:
        paths: `[n]` str, the JPEG files.
        labels: `[n]` int32, positions in `class_names`.
        lesions: `[n]` str, which lesion is shown; images of one lesion belong to one side of a split.
        rows: `[n]` str, where the example was read from, as `file:line`, for error messages.
        class_names: the classes in the order of the labels.
    """

    paths: np.ndarray
    labels: np.ndarray
    lesions: np.ndarray
    rows: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: np.ndarray) -> "Examples":
        """The examples at `indices`, in that order."""
        return Examples(
            self.paths[indices], self.labels[indices], self.lesions[indices], self.rows[indices], self.class_names
        )

    def format_class_table(self) -> str:
        """The images and lesions of each class, as a table for people."""
        rows = [("class", "images", "lesions")]
        for label, name in enumerate(self.class_names):
            members = self.labels == label
            rows.append((name, str(members.sum()), str(len(set(self.lesions[members])))))
        rows.append(("all", str(len(self)), str(len(set(self.lesions)))))
        width = max(len(name) for name, _, _ in rows)
        return "\n".join(f"{name:<{width}}  {images:>6}  {lesions:>7}" for name, images, lesions in rows)

    def compute_fingerprint(self) -> str:
        """SHA-256 of file names, labels and lesions in order: the same data in another folder has the same."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for path, label, lesion in zip(self.paths, self.labels, self.lesions, strict=True):
            digest.update(f"{path.rpartition('/')[2]},{label},{lesion}\n".encode())
        return digest.hexdigest()


def concatenate_examples(first: Examples, second: Examples) -> Examples:
    """The examples of both, which have the same classes."""
    paths, labels, lesions, rows = (
        np.concatenate([getattr(examples, column) for examples in (first, second)])
        for column in ("paths", "labels", "lesions", "rows")
    )
    return Examples(paths, labels, lesions, rows, first.class_names)
