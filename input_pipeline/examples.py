"""The table that every source is read into, and the faults that are collected while it is read."""

import contextlib
import hashlib
import os
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from input_pipeline.errors import DataError

Part = Literal["Training", "Validation", "Test"]  # the archive's sets
Batch = dict[str, np.ndarray]  # columns of one length

# Control characters, line and paragraph separators, overrides of the direction of writing, and surrogates, as which
# Python decodes bytes that are not UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Faults(list[str]):
    """Errors in a data set, one line each, collected so that a single report lists all of them."""

    def raise_if_any(self, error: type[DataError] = DataError) -> None:
        """Raises an error, of the given type, that has all faults in its `details`.

        Raises:
            DataError: there is at least one fault.
        """
        if self:
            summary = f"{len(self)} faults in the data, the first: " if len(self) > 1 else ""
            raise error(summary + self[0], details=self)


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
    """A table of images: columns of one length. It holds no pixels.

    Attributes:
        paths: `[n]` str, the image files.
        labels: `[n]` int32, indices into `class_names`.
        lesions: `[n]` str, the lesion that the image shows; images of one lesion belong in one subset. An
            image whose lesion is unknown has its own name here.
        rows: `[n]` str, the origin of the example as `file:line`, for error messages.
        class_names: the classes in the order of the labels.
        relative_paths: `[n]` str, the names of the images if file names repeat, see `name_by_path`; otherwise None.
        subsets: `[n]` str, `"training"` or `"validation"`, if the source assigns its images; otherwise None.
        soft_labels: float32 `[n, classes]`, target probabilities; None for one-hot labels.
    """

    paths: np.ndarray
    labels: np.ndarray
    lesions: np.ndarray
    rows: np.ndarray
    class_names: tuple[str, ...]
    relative_paths: np.ndarray | None = None
    subsets: np.ndarray | None = None
    soft_labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def names(self) -> np.ndarray:
        """The names that identify the images in tables, `[n]` str: file names without suffix, or relative paths."""
        if self.relative_paths is not None:
            return self.relative_paths
        return np.array([get_stem(path) for path in self.paths.tolist()], np.str_)

    @property
    def lesions_known(self) -> bool:
        """True if the data specify which images show the same lesion; otherwise each image has its name as lesion."""
        return bool((self.lesions != self.names).any())

    def take(self, indices: np.ndarray) -> "Examples":
        """Returns the examples at `indices`, in that order."""
        columns: dict[str, Any] = {name: getattr(self, name) for name in _COLUMNS}
        return replace(self, **{name: c[indices] for name, c in columns.items() if c is not None})

    def find_mixed_lesions(self) -> Faults:
        """Returns one fault for each example whose lesion has another label in an earlier row.

        A split by lesion cannot preserve the class proportions if a lesion has two, and one of the two is wrong.
        """
        faults = Faults()
        first: dict[str, int] = {}
        labels = self.labels.tolist()
        for i, lesion in enumerate(self.lesions.tolist()):
            j = first.setdefault(lesion, i)
            if labels[i] != labels[j]:
                here, there = (self.class_names[labels[row]] for row in (i, j))
                faults.append(
                    f"{self.rows[i]}: lesion {lesion} is {here} here and {there} at {self.rows[j]}: give it one class"
                )
        return faults

    def format_class_table(self) -> str:
        """Returns the numbers of images and lesions per class as an aligned text table; `?` for unknown lesions."""
        known, rows = self.lesions_known, [("class", "images", "lesions")]
        for label, name in enumerate((*self.class_names, "all")):
            members = self.labels == label if label < len(self.class_names) else np.ones(len(self), bool)
            rows.append((name, str(members.sum()), str(len(set(self.lesions[members]))) if known else "?"))
        width = max(len(name) for name, _, _ in rows)
        return "\n".join(f"{name:<{width}}  {images:>6}  {lesions:>7}" for name, images, lesions in rows)

    def find_unprintable_names(self) -> Faults:
        """Returns one fault for each class and image whose name is not UTF-8 or holds control characters.

        Tables, reports and messages would break at them.
        """
        names = [("class", name) for name in self.class_names] + [("image", path) for path in self.paths.tolist()]
        return Faults(
            f"the {noun} {name!a} has control characters or invalid UTF-8 in its name: rename it"
            for noun, name in names
            if not is_printable(name)
        )

    def compute_fingerprint(self) -> str:
        """Computes the SHA-256 of file names, labels, lesions and soft labels in order, independent of the folder."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        columns = (self.paths.tolist(), self.labels.tolist(), self.lesions.tolist())
        for path, label, lesion in zip(*columns, strict=True):
            digest.update(f"{os.path.basename(path)},{label},{lesion}\n".encode())
        if self.soft_labels is not None:
            digest.update(self.soft_labels.tobytes())
        return digest.hexdigest()


_COLUMNS = tuple(field.name for field in fields(Examples) if field.name != "class_names")


def concatenate_examples(first: Examples, second: Examples) -> Examples:
    """Concatenates two tables that have the same classes. A column that one of them lacks is left out."""
    columns: dict[str, Any] = {}
    for name in _COLUMNS:
        parts = [getattr(examples, name) for examples in (first, second)]
        columns[name] = None if any(part is None for part in parts) else np.concatenate(parts)
    return replace(first, **columns)


def get_stem(path: str) -> str:
    """Returns the file name without its suffix; `Path.stem` takes four times as long."""
    return os.path.splitext(os.path.basename(path))[0]


def is_printable(name: str) -> bool:
    """Returns whether a name of a class or an image is UTF-8 without control characters.

    `str.isprintable` also refuses no-break spaces and the joiners that some scripts and emoji need.
    """
    return _UNPRINTABLE.search(name) is None


def normalize_name(name: str) -> str:
    """Returns a name in Unicode's form NFC: systems differ in how they write letters with accents."""
    return unicodedata.normalize("NFC", name)


def match_names(names: Sequence[str], known: Collection[str]) -> list[str | None]:
    """Matches names with those of a table.

    Args:
        names: the names to look up.
        known: the names in the table.

    Returns:
        For each name, the equal one in `known`; or else one that is equal after `normalize_name` and without blanks
        around it; or None.
    """
    normalized: dict[str, str] = {}
    for name in known:
        normalized.setdefault(normalize_name(name).strip(), name)
    return [name if name in known else normalized.get(normalize_name(name).strip()) for name in names]


def name_by_path(paths: Sequence[str], root: Path) -> np.ndarray | None:
    """Names images whose file names repeat by their paths.

    Args:
        paths: the image files.
        root: the folder of the data.

    Returns:
        `[n]` str, the paths relative to `root`, with `/` and their suffix; or None if each file name without its
        suffix occurs once and is therefore the name of the image.
    """
    if len({get_stem(path) for path in paths}) == len(paths):
        return None
    relative = (path.relative_to(root) if path.is_relative_to(root) else path for path in map(Path, paths))
    return np.array([path.as_posix() for path in relative])
