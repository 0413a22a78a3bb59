"""Reads ISIC 2018 Task 3 in the layout of the ISIC archive, as it is downloaded.

    DIR/ISIC2018_Task3_Training_Input/ISIC_0024306.jpg ...
    DIR/ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv
    DIR/ISIC2018_Task3_Training_LesionGroupings.csv          may be missing
    DIR/ISIC2018_Task3_Validation_Input/ ...                 likewise, and Test
    DIR/ISIC2018_Task3_Validation_GroundTruth/ ...

The ground truth is one-hot, in the archive's numbers (`1.0`, `0.0`) or in the article's (`1`, `0`).
"""

import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, Faults, Part

CLASS_NAMES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
MALIGNANT = ("MEL", "BCC", "AKIEC")  # AKIEC includes lesions that are not invasive yet

INPUT = "ISIC2018_Task3_{}_Input"
GROUND_TRUTH = "ISIC2018_Task3_{}_GroundTruth"
GROUPINGS = "ISIC2018_Task3_Training_LesionGroupings.csv"
_DOWNLOADS = "https://challenge.isic-archive.com/data/#2018"


def read_isic(folder: str | Path, part: Part = "Training", faults: Faults | None = None) -> Examples:
    """Reads the tables of one of the archive's sets and checks them against the image files.

    The images themselves are not opened: `audit.validate_images` does that.

    Args:
        folder: the folder that holds the two folders and the CSV file above.
        part: which set. Lesions are known of the training set only, and only where the file of groupings is; otherwise
            each image is taken for a lesion of its own.
        faults: where to note what is wrong with rows and files, which are then left out; None raises it.

    Returns:
        The examples in the order of the ground truth; the classes in the archive's order.

    Raises:
        DataError: something is missing or contradicts itself; the message names the file and the line.
    """
    found = Faults() if faults is None else faults
    folder = Path(folder)
    images = folder / INPUT.format(part)
    truth = folder / GROUND_TRUTH.format(part) / f"{GROUND_TRUTH.format(part)}.csv"
    if not folder.is_dir():
        raise DataError(f"no such data folder: {folder} (--config.data.dir names the one that holds {images.name})")
    for path in (images, truth):
        if not path.exists():
            raise DataError(f"{path} is missing: config.data.dir names the folder that holds it; {_DOWNLOADS} has it")

    lines, labels = _read_labels(truth, found)
    files = {f[:-4]: f for f in sorted(os.listdir(images)) if f.lower().endswith(".jpg")}
    groupings = folder / GROUPINGS
    lesions = {name: name for name in lines}
    if part == "Training" and groupings.exists():
        lesions = read_lesions(groupings, found)
    elif part == "Training":
        print(
            f"warning: {groupings} is missing, so each image counts as a lesion of its own, and near copies "
            f"can stand on both sides of a split; {_DOWNLOADS} has it",
            file=sys.stderr,
        )
    for name, line in lines.items():
        if name not in files:
            found.append(f"{truth}:{line}: there is no {images / name}.jpg: add the image or remove the row")
        elif name not in lesions:  # a name that neither knows is one fault
            found.append(f"{truth}:{line}: {name} has no row in {groupings}: add one, a split by lesion needs it")
    for name, file in files.items():
        if name not in lines:
            found.append(f"{images / file} has no row in {truth}: add one or remove the image")
    good = [name for name in labels if name in files and lesions.get(name)]
    examples = Examples(
        paths=np.array([str(images / files[name]) for name in good]),
        labels=np.array([labels[name] for name in good], np.int32),
        lesions=np.array([lesions[name] for name in good]),
        rows=np.array([f"{truth.name}:{lines[name]}" for name in good]),
        class_names=CLASS_NAMES,
    )
    note_mixed_lesions(examples, found)
    if faults is None:
        found.raise_if_any()
    return examples


def table_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number (from 1) and cells of each line of a CSV table that is not empty.

    Raises:
        DataError: it is no CSV text.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            yield from ((reader.line_num, row) for row in reader if row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV text: {error}") from error


def _read_labels(path: Path, faults: Faults) -> tuple[dict[str, int], dict[str, int]]:
    """Image -> line, of all rows, and image -> label, of those that are as they should be."""
    rows = table_rows(path)
    _, header = next(rows, (1, []))
    if header[:1] != ["image"]:
        if header[:1] and set(header[1:]) <= {"0", "1", "0.0", "1.0"}:
            raise DataError(f"{path}:1: the header is missing: add the line image,{','.join(CLASS_NAMES)}")
        raise DataError(f"{path}:1: the first column is {header[:1] or 'missing'}, not 'image'")
    for column in header[1:]:
        if column not in CLASS_NAMES:
            raise DataError(f"{path}:1: unknown class {column!r}: the classes are {', '.join(CLASS_NAMES)}")
    if sorted(header[1:]) != sorted(CLASS_NAMES):
        raise DataError(f"{path}:1: the columns are image and each of {', '.join(CLASS_NAMES)} once, not {header}")
    order = [CLASS_NAMES.index(column) for column in header[1:]]

    lines: dict[str, int] = {}
    labels: dict[str, int] = {}
    for line, row in rows:
        where = f"{path}:{line}"
        name, values = row[0], row[1:]
        if name in lines:
            faults.append(f"{where}: {name} stands in line {lines[name]} already: remove one of the two")
            continue
        lines[name] = line
        ones = [position for position, value in zip(order, values, strict=False) if value in ("1", "1.0")]
        zeros = sum(value in ("0", "0.0") for value in values)
        if len(values) == len(order) and len(ones) == 1 and zeros == len(order) - 1:
            labels[name] = ones[0]
        else:
            faults.append(f"{where}: {name} is not one-hot: exactly one of the {len(order)} columns is 1, the rest 0")
    if not lines:
        raise DataError(f"{path} holds no image")
    return lines, labels


def read_lesions(path: Path, faults: Faults) -> dict[str, str]:
    """Image -> lesion, from a table whose first columns are `image` and `lesion_id`; a lesion that is missing is "".

    Raises:
        DataError: it is no such table.
    """
    rows = table_rows(path)
    _, header = next(rows, (1, []))
    if header[:2] != ["image", "lesion_id"]:
        raise DataError(
            f"{path}:1: the first columns are {header[:2]}, not image and lesion_id: add the header if it is missing"
        )
    lesions: dict[str, str] = {}
    for line, row in rows:
        name, lesion = [*row, ""][:2]
        if name in lesions:
            faults.append(f"{path}:{line}: {name} stands in an earlier line already: remove one of the two")
            continue
        lesions[name] = lesion
        if not lesion:
            faults.append(f"{path}:{line}: no lesion_id for {name}: add one, a split by lesion needs it")
    return lesions


def note_mixed_lesions(examples: Examples, faults: Faults) -> None:
    """Notes each lesion that has two labels: a split by lesion could not keep the classes' shares, and one is wrong."""
    first: dict[str, int] = {}
    for i, lesion in enumerate(examples.lesions):
        j = first.setdefault(lesion, i)
        if examples.labels[i] != examples.labels[j]:
            names = examples.class_names
            faults.append(
                f"{examples.rows[i]}: lesion {lesion} is {names[examples.labels[i]]} here and "
                f"{names[examples.labels[j]]} at {examples.rows[j]}: give it one class"
            )
