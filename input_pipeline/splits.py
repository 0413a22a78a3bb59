"""Which examples are for training and which for validation."""

import csv
import hashlib
import io
import re
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples

SIDES = ("training", "validation")

_WAYS = (
    "lesion, fold:K/N (K from 1 to N), last:S, first:S, per_class:S (S a share such as 0.3), official, official:test, "
    "or FILE.csv"
)
_FOLD = re.compile(r"fold:([1-9]\d*)/([1-9]\d*)")
_SHARE = re.compile(r"(first|last|per_class):(0\.\d+)")


def split_examples(examples: Examples, how: str, *, val_fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Splits examples in two, each side in the order it had.

    Args:
        examples: all of them.
        how: one of
            `"lesion"`: see `split_by_lesion`;
            `"fold:K/N"`: fold K, counted from 1, of an N-fold cross-validation in which no lesion is in two folds;
            `"last:S"` and `"first:S"`: that share of the examples in the order of their table, as the article did by
            hand, whatever their lesions;
            `"per_class:S"`: that share of each class, its first by file name, as Keras's `validation_split` does;
            `NAME.csv`: a table with the columns `image` and `split`, such as a run leaves in its workdir.
        val_fraction: the share of lesions for validation, for `"lesion"`.
        seed: decides `"lesion"` and `"fold:K/N"`.

    Raises:
        DataError: the examples cannot be split so.
    """
    check_split_name(how)
    if how == "lesion":
        return split_by_lesion(examples, val_fraction, seed)
    if how.endswith(".csv"):
        held_out = _in_table(examples, Path(how))
    elif fold := _FOLD.fullmatch(how):
        held_out = _in_fold(examples, int(fold[1]), int(fold[2]), seed)
    else:
        which, _, share = how.partition(":")
        held_out = _in_share(examples, which, float(share))
    training, validation = examples.take(np.flatnonzero(~held_out)), examples.take(np.flatnonzero(held_out))
    if not len(training) or not len(validation):
        raise DataError(
            f"data.split={how} leaves {len(training)} images for training, {len(validation)} for validation"
        )
    return training, validation


def check_split_name(how: str) -> None:
    """Refuses what is no way to split, before any example is read.

    Raises:
        DataError: names the ways there are.
    """
    fold = _FOLD.fullmatch(how)
    is_fold = fold and int(fold[1]) <= int(fold[2]) > 1
    if not (how == "lesion" or how.endswith(".csv") or is_fold or _SHARE.fullmatch(how)):
        raise DataError(f"data.split is {how!r}; it is one of {_WAYS}")


def split_by_lesion(examples: Examples, val_fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Splits so that all images of a lesion stand on one side.

    Lesions are drawn class by class, so each class gives `val_fraction` of its lesions to validation. Images of one
    lesion are near copies of each other: a split that parts them measures memory, not skill.

    Args:
        examples: all examples.
        val_fraction: the share of lesions for validation, between 0 and 1.
        seed: the same seed gives the same split.

    Returns:
        Examples for training and for validation, each in the order they had.

    Raises:
        DataError: a lesion has two labels, or a class has too few lesions to stand on both sides.
    """
    lesion_of, lesion_labels = _lesions(examples)
    counts = np.bincount(lesion_labels, minlength=len(examples.class_names))
    too_few = DataError(
        f"cannot split by lesion with data.val_fraction={val_fraction} (lesions: {_table(examples, counts)}): each "
        "class needs lesions for both sides; add images or change data.val_fraction"
    )
    try:
        _, validation = train_test_split(
            np.arange(len(lesion_labels)), test_size=val_fraction, random_state=seed, stratify=lesion_labels
        )
    except ValueError as error:  # a class of one lesion, or fewer lesions on a side than classes
        raise too_few from error
    sides = np.bincount(lesion_labels[validation], minlength=len(counts))
    if any(count and not 0 < side < count for side, count in zip(sides, counts, strict=True)):
        raise too_few
    held_out = np.isin(lesion_of, validation)
    return examples.take(np.flatnonzero(~held_out)), examples.take(np.flatnonzero(held_out))


def count_crossing_lesions(training: Examples, validation: Examples) -> int:
    """How many lesions stand on both sides."""
    return len(set(training.lesions) & set(validation.lesions))


def format_split(training: Examples, validation: Examples) -> str:
    """The split as a CSV text: `image`, the file's name without its suffix, `split`, `label` and `lesion`."""
    rows = [
        (Path(path).stem, side, part.class_names[label], lesion)
        for side, part in zip(SIDES, (training, validation), strict=True)
        for path, label, lesion in zip(part.paths, part.labels, part.lesions, strict=True)
    ]
    writer = csv.writer(text := io.StringIO(), lineterminator="\n")
    writer.writerows([("image", "split", "label", "lesion"), *sorted(rows)])
    return text.getvalue()


def hash_split(table: str) -> str:
    """The SHA-256 of a split's table, by which two runs can be told to have the same split."""
    return hashlib.sha256(table.encode()).hexdigest()


def _lesions(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """The number of each example's lesion, and the label of each lesion."""
    _, first, lesion_of = np.unique(examples.lesions, return_index=True, return_inverse=True)
    lesion_labels = examples.labels[first]
    mixed = np.flatnonzero(lesion_labels[lesion_of] != examples.labels)
    if len(mixed):
        row, other = mixed[0], first[lesion_of[mixed[0]]]
        names = examples.class_names
        raise DataError(
            f"{examples.rows[row]}: lesion {examples.lesions[row]} is {names[examples.labels[row]]} here and "
            f"{names[examples.labels[other]]} at {examples.rows[other]}: give it one class"
        )
    return lesion_of, lesion_labels


def _in_fold(examples: Examples, fold: int, folds: int, seed: int) -> np.ndarray:
    lesion_of, lesion_labels = _lesions(examples)
    counts = np.bincount(lesion_labels, minlength=len(examples.class_names))
    if min(count for count in counts if count) < folds:
        raise DataError(
            f"cannot make {folds} folds by lesion (lesions: {_table(examples, counts)}): each class needs {folds}; "
            "add images or change data.split"
        )
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    _, validation = list(splitter.split(lesion_labels, lesion_labels))[fold - 1]
    return np.isin(lesion_of, validation)


def _in_share(examples: Examples, which: str, share: float) -> np.ndarray:
    n = len(examples)
    if which == "first":
        return np.arange(n) < int(share * n)
    if which == "last":
        return np.arange(n) >= n - int(share * n)
    held_out = np.zeros(n, bool)
    for label in range(len(examples.class_names)):
        members = np.flatnonzero(examples.labels == label)
        by_name = members[np.argsort([Path(path).name for path in examples.paths[members]], kind="stable")]
        held_out[by_name[: int(share * len(members))]] = True
    return held_out


def _in_table(examples: Examples, path: Path) -> np.ndarray:
    """Reads who is held out from a table that names every image once."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            if not {"image", "split"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path}:1: the columns are {reader.fieldnames}; a split has image and split")
            sides: dict[str, str] = {}
            for row in reader:
                name, side, where = row["image"], row["split"], f"{path}:{reader.line_num}"
                if side not in SIDES:
                    raise DataError(f"{where}: split is {side!r}, not one of {', '.join(SIDES)}")
                if name in sides:
                    raise DataError(f"{where}: {name} stands in an earlier line already: remove one of the two")
                sides[name] = side
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the split {path} ({error})") from error
    names = [Path(p).stem for p in examples.paths]
    missing = [name for name in names if name not in sides]
    if missing:
        raise DataError(f"{path} does not name {missing[0]}, and {len(missing) - 1} other images of the data")
    unknown = sides.keys() - set(names)
    if unknown:
        raise DataError(f"{path} names {min(unknown)}, and {len(unknown) - 1} other images the data do not have")
    return np.array([sides[name] == "validation" for name in names])


def _table(examples: Examples, counts: np.ndarray) -> str:
    return ", ".join(f"{n} {c}" for n, c in zip(examples.class_names, counts, strict=True))
