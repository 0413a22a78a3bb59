"""The table that every source is read into, and the faults that are collected while it is read."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import numpy as np

from input_pipeline.errors import DataError

Part = Literal["Training", "Validation", "Test"]  # the archive's sets
Batch = dict[str, np.ndarray]  # columns of one length


class Faults(list[str]):
    """Errors in a data set, one line each, collected so that a single report lists all of them."""

    def raise_if_any(self) -> None:
        """Raises an error that has all faults in its `details`.

        Raises:
            DataError: there is at least one fault.
        """
        if self:
            summary = f"{len(self)} faults in the data, the first: " if len(self) > 1 else ""
            raise DataError(summary + self[0], details=self)


@contextlib.contextmanager
def collect_faults(faults: Faults | None) -> Iterator[Faults]:
    """Yields the list to add faults to: `faults`, or a new one, which is raised at the end of the block.

    Raises:
        DataError: `faults` is None, and the block added at least one.
    """
    collected = Faults() if faults is None else faults
    yield collected
    if faults is None:
        collected.raise_if_any()


@dataclass(frozen=True, eq=False)
class Examples:
    """A table of images: four columns of one length. It holds no pixels.

    Attributes:
        paths: `[n]` str, the JPEG files.
        labels: `[n]` int32, indices into `class_names`.
        lesions: `[n]` str, the lesion that the image shows; images of one lesion belong in one subset of a split.
        rows: `[n]` str, the origin of the example as `file:line`, for error messages.
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
        """Returns the examples at `indices`, in that order."""
        return Examples(
            self.paths[indices], self.labels[indices], self.lesions[indices], self.rows[indices], self.class_names
        )

    def find_mixed_lesions(self) -> Faults:
        """Returns one fault for each example whose lesion has another label in an earlier row.

        A split by lesion cannot preserve the class proportions if a lesion has two, and one of the two is wrong.
        """
        faults = Faults()
        first: dict[str, int] = {}
        for i, lesion in enumerate(self.lesions):
            j = first.setdefault(lesion, i)
            if self.labels[i] != self.labels[j]:
                here, there = (self.class_names[self.labels[row]] for row in (i, j))
                faults.append(
                    f"{self.rows[i]}: lesion {lesion} is {here} here and {there} at {self.rows[j]}: give it one class"
                )
        return faults

    def format_class_table(self) -> str:
        """Returns the numbers of images and lesions per class as an aligned text table."""
        rows = [("class", "images", "lesions")]
        for label, name in enumerate(self.class_names):
            members = self.labels == label
            rows.append((name, str(members.sum()), str(len(set(self.lesions[members])))))
        rows.append(("all", str(len(self)), str(len(set(self.lesions)))))
        width = max(len(name) for name, _, _ in rows)
        return "\n".join(f"{name:<{width}}  {images:>6}  {lesions:>7}" for name, images, lesions in rows)

    def compute_fingerprint(self) -> str:
        """Computes the SHA-256 of file names, labels and lesions in order, independent of the folder."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for path, label, lesion in zip(self.paths, self.labels, self.lesions, strict=True):
            digest.update(f"{PurePath(path).name},{label},{lesion}\n".encode())
        return digest.hexdigest()


def concatenate_examples(first: Examples, second: Examples) -> Examples:
    """Concatenates two tables that have the same classes."""
    paths, labels, lesions, rows = (
        np.concatenate([getattr(examples, column) for examples in (first, second)])
        for column in ("paths", "labels", "lesions", "rows")
    )
    return Examples(paths, labels, lesions, rows, first.class_names)
