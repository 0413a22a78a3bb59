"""Splits examples into training and validation, and reads and writes the table of a split."""

import csv
import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from input_pipeline.csv_cells import escape_formula, unescape_formula
from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, match_names

SUBSETS = ("training", "validation")

_SPLITS = (
    "lesion, fold:K/N (K from 1 to N), last:S, first:S, per_class:S (S a fraction such as 0.3), official, "
    "official:test, given, all, or FILE.csv"
)
_FOLD = re.compile(r"fold:([1-9]\d*)/([1-9]\d*)")
_FRACTION = re.compile(r"(first|last|per_class):(0\.\d+)")


def split_examples(examples: Examples, split: str, *, val_fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Splits examples into training and validation, each in the original order.

    Args:
        examples: all examples.
        split: one of
            `"given"`: the subsets that the source assigns;
            `"lesion"`: the subsets that the source assigns, if it does; otherwise see `split_by_lesion`;
            `"all"`: all examples are for training;
            `"fold:K/N"`: fold K, counted from 1, of an N-fold cross-validation in which no lesion is in two folds;
            `"last:S"` and `"first:S"`: that fraction of the examples in the order of their table, regardless of their
            lesions, as the article did by hand;
            `"per_class:S"`: that fraction of each class, its first by file name, as Keras's `validation_split` does;
            `NAME.csv`: a table with the columns `image` and `split`, such as a run writes to its workdir.
        val_fraction: the fraction of lesions for validation, for `"lesion"`.
        seed: seed of `"lesion"` and `"fold:K/N"`.

    Raises:
        DataError: the examples cannot be split this way.
    """
    check_split_name(split)
    split = resolve_split(examples, split)
    if split == "lesion":
        return split_by_lesion(examples, val_fraction, seed)
    if split == "all":
        held_out = np.zeros(len(examples), bool)
    elif split == "given":
        held_out = _get_given_subsets(examples) == "validation"
    elif split.endswith(".csv"):
        held_out = _read_held_out(examples, Path(split))
    elif fold := _FOLD.fullmatch(split):
        held_out = _select_fold(examples, int(fold[1]), int(fold[2]), seed)
    else:
        selection, _, fraction = split.partition(":")
        held_out = _select_fraction(examples, selection, float(fraction))
    training, validation = _divide(examples, held_out)
    if not len(training) or (not len(validation) and split != "all"):
        advice = (
            ": the data assign no image to the other subset; assign some, or use data.split=fold:1/5 or all"
            if split == "given"
            else ""
        )
        raise DataError(
            f"data.split={split} leaves {len(training)} images for training, {len(validation)} for validation{advice}"
        )
    return training, validation


def resolve_split(examples: Examples, split: str) -> str:
    """Returns the split that is made: `"given"` instead of `"lesion"` if the source assigns its images to subsets."""
    return "given" if split == "lesion" and examples.subsets is not None else split


def check_split_name(split: str) -> None:
    """Validates the specification of a split before any example is read.

    Raises:
        DataError: `split` is not valid; the message lists the splits.
    """
    fold = _FOLD.fullmatch(split)
    is_fold = fold and int(fold[1]) <= int(fold[2]) > 1
    if not (split in ("lesion", "given", "all") or split.endswith(".csv") or is_fold or _FRACTION.fullmatch(split)):
        raise DataError(f"data.split is {split!r}, expected one of {_SPLITS}")
    if split.endswith(".csv") and not Path(split).is_file():
        raise DataError(f"data.split names {split}, which does not exist")


def split_by_lesion(examples: Examples, val_fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Splits examples so that all images of a lesion are in one subset.

    Lesions are sampled per class, so that each class gives `val_fraction` of its lesions to validation. Images of one
    lesion are near-duplicates of each other: a split that separates them measures memorization, not generalization.

    Args:
        examples: all examples.
        val_fraction: the fraction of lesions for validation, between 0 and 1.
        seed: the same seed gives the same split.

    Returns:
        The examples for training and for validation, each in the original order.

    Raises:
        DataError: a lesion has two labels, or a class has one lesion only.
    """
    lesion_of, lesion_labels = _number_lesions(examples)
    counts = np.bincount(lesion_labels, minlength=len(examples.class_names))
    if 1 in counts:
        unit = _get_unit(examples)
        raise DataError(
            f"cannot split by {unit} ({_format_counts(examples, counts)}): each class needs one {unit} for training "
            f"and one for validation; add images, or use data.split=all"
        )
    try:
        _, validation = train_test_split(
            np.arange(len(lesion_labels)), test_size=val_fraction, random_state=seed, stratify=lesion_labels
        )
    except ValueError:  # a subset has fewer lesions than there are classes
        validation = np.zeros(0, int)
    held_out = np.bincount(lesion_labels[validation], minlength=len(counts))
    if any(count and not 0 < n < count for n, count in zip(held_out, counts, strict=True)):
        validation = _sample_each_class(lesion_labels, val_fraction, seed)
    return _divide(examples, np.isin(lesion_of, validation))


def _sample_each_class(lesion_labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Samples a fraction of the lesions of each class, but at least one, and not all of them.

    `train_test_split` gives the whole data set that fraction, and may leave a small class without a lesion.
    """
    rng = np.random.default_rng(seed)
    sampled = []
    for label in np.unique(lesion_labels):
        members = rng.permutation(np.flatnonzero(lesion_labels == label))
        sampled.append(members[: min(max(1, round(fraction * len(members))), len(members) - 1)])
    return np.concatenate(sampled)


def count_crossing_lesions(training: Examples, validation: Examples) -> int:
    """Counts the lesions that are in both subsets."""
    return len(set(training.lesions) & set(validation.lesions))


def format_split(training: Examples, validation: Examples) -> str:
    """Formats a split as CSV text: `image`, one of `Examples.names`, `split`, `label` and `lesion`, see `csv_cells`."""
    rows = [
        (escape_formula(str(name)), subset, escape_formula(part.class_names[label]), escape_formula(lesion))
        for subset, part in zip(SUBSETS, (training, validation), strict=True)
        for name, label, lesion in zip(part.names, part.labels, part.lesions, strict=True)
    ]
    writer = csv.writer(text := io.StringIO(), lineterminator="\n")
    writer.writerows([("image", "split", "label", "lesion"), *sorted(rows)])
    return text.getvalue()


def hash_split(table: str) -> str:
    """Computes the SHA-256 of a split's table, which identifies runs that have the same split."""
    return hashlib.sha256(table.encode()).hexdigest()


def _divide(examples: Examples, held_out: np.ndarray) -> tuple[Examples, Examples]:
    """Returns the examples where `held_out` is False, and those where it is True."""
    return examples.take(np.flatnonzero(~held_out)), examples.take(np.flatnonzero(held_out))


def _number_lesions(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lesion number of each example, and the label of each lesion."""
    examples.find_mixed_lesions().raise_if_any()
    _, first, lesion_of = np.unique(examples.lesions, return_index=True, return_inverse=True)
    return lesion_of, examples.labels[first]


def _get_given_subsets(examples: Examples) -> np.ndarray:
    if examples.subsets is None:
        raise DataError(
            "data.split is 'given', but the data have no split: put the class folders into train/ and val/, add the "
            "column split to the CSV table, or use data.split=lesion"
        )
    return examples.subsets


def _select_fold(examples: Examples, fold: int, folds: int, seed: int) -> np.ndarray:
    lesion_of, lesion_labels = _number_lesions(examples)
    counts = np.bincount(lesion_labels, minlength=len(examples.class_names))
    if min(count for count in counts if count) < folds:
        raise DataError(
            f"cannot make {folds} folds by {_get_unit(examples)} ({_format_counts(examples, counts)}): each class "
            f"needs {folds}; add images or change data.split"
        )
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    _, validation = list(splitter.split(lesion_labels, lesion_labels))[fold - 1]
    return np.isin(lesion_of, validation)


def _select_fraction(examples: Examples, selection: str, fraction: float) -> np.ndarray:
    n = len(examples)
    if selection == "first":
        return np.arange(n) < int(fraction * n)
    if selection == "last":
        return np.arange(n) >= n - int(fraction * n)
    held_out = np.zeros(n, bool)
    for label in range(len(examples.class_names)):
        members = np.flatnonzero(examples.labels == label)
        by_name = members[np.argsort([Path(path).name for path in examples.paths[members]], kind="stable")]
        held_out[by_name[: int(fraction * len(members))]] = True
    return held_out


def _read_held_out(examples: Examples, path: Path) -> np.ndarray:
    """Returns whether each example is held out, from a table that names every image once."""
    subsets = _read_subsets(path)
    names = examples.names.tolist()
    matches = match_names(names, subsets)
    missing = [name for name, match in zip(names, matches, strict=True) if match is None]
    if missing:
        raise DataError(f"{path} lacks {_list_first(missing)}: add the rows, or use the data that it was written for")
    unknown = subsets.keys() - set(matches)
    if unknown:
        raise DataError(
            f"the data lack {_list_first(sorted(unknown))}, which {path} names: remove the rows, or use the data that "
            "it was written for"
        )
    return np.array([subsets[match] == "validation" for match in matches if match is not None])


def _list_first(names: Sequence[str]) -> str:
    """Returns the first name, and the number of the others."""
    others = len(names) - 1
    return f"{names[0]} and {others} other{'s' * (others > 1)}" if others else names[0]


def _read_subsets(path: Path) -> dict[str, str]:
    """Returns image -> subset, from the table of a split."""
    subsets: dict[str, str] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="", strict=True)  # a row may lack cells
            if not {"image", "split"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path}:1: the columns are {reader.fieldnames}, but image and split are required")
            for row in reader:
                name, subset, place = unescape_formula(row["image"]), row["split"], f"{path}:{reader.line_num}"
                if subset not in SUBSETS:
                    raise DataError(f"{place}: split is {subset!r}, not one of {', '.join(SUBSETS)}")
                if not name:
                    raise DataError(f"{place}: the image is empty: fill it in, or remove the row")
                if name in subsets:
                    raise DataError(f"{place}: {name} is in an earlier line already: remove one of the two")
                subsets[name] = subset
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the split {path} ({error})") from error
    return subsets


def _get_unit(examples: Examples) -> str:
    """Returns the noun for the units that a split keeps whole: images, if lesions are unknown."""
    return "lesion" if examples.lesions_known else "image"


def _format_counts(examples: Examples, counts: np.ndarray) -> str:
    """Formats the number of units in each class."""
    classes = ", ".join(f"{n} {c}" for n, c in zip(examples.class_names, counts, strict=True))
    return f"{_get_unit(examples)}s: {classes}" + ("" if examples.lesions_known else "; lesions unknown")
