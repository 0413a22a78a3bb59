"""Reads ISIC 2018 Task 3 in the layout of the ISIC archive, as it is downloaded.

    DIR/ISIC2018_Task3_Training_Input/ISIC_0024306.jpg ...
    DIR/ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv
    DIR/ISIC2018_Task3_Training_LesionGroupings.csv

The ground truth is one-hot, in the archive's numbers (`1.0`, `0.0`) or in the article's (`1`, `0`).
"""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from input_pipeline.examples import DataError, Examples

CLASS_NAMES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")

_INPUT = "ISIC2018_Task3_Training_Input"
_GROUND_TRUTH = "ISIC2018_Task3_Training_GroundTruth"
_GROUPINGS = "ISIC2018_Task3_Training_LesionGroupings.csv"
_DOWNLOADS = "https://challenge.isic-archive.com/data/#2018"


def read_isic(folder: str | Path) -> Examples:
    """Reads the tables of the archive's training set and checks them against the image files.

    The images themselves are not opened: `audit.check_images` does that.

    Args:
        folder: the folder that holds the two folders and the CSV file above.

    Returns:
        The examples in the order of the ground truth; the classes in the archive's order.

    Raises:
        DataError: something is missing or contradicts itself; the message names the file and the line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no such data folder: {folder} (--config.data.dir names the one that holds {_INPUT})")
    images = folder / _INPUT
    truth = folder / _GROUND_TRUTH / f"{_GROUND_TRUTH}.csv"
    groupings = folder / _GROUPINGS
    for path in (images, truth, groupings):
        if not path.exists():
            raise DataError(f"{path} is missing: config.data.dir names the folder that holds it; {_DOWNLOADS} has it")

    labels = _read_labels(truth)
    lesions = read_lesions(groupings)
    files = {f[:-4]: f for f in sorted(os.listdir(images)) if f.lower().endswith(".jpg")}
    for name, (line, _) in labels.items():
        if name not in files:
            raise DataError(f"{truth}:{line}: there is no {images / name}.jpg: add the image or remove the row")
        if name not in lesions:
            raise DataError(f"{truth}:{line}: {name} has no row in {groupings}: add one, a split by lesion needs it")
    for name, file in files.items():
        if name not in labels:
            raise DataError(f"{images / file} has no row in {truth}: add one or remove the image")
    return Examples(
        paths=np.array([str(images / files[name]) for name in labels]),
        labels=np.array([label for _, label in labels.values()], np.int32),
        lesions=np.array([lesions[name] for name in labels]),
        rows=np.array([f"{truth.name}:{line}" for line, _ in labels.values()]),
        class_names=CLASS_NAMES,
    )


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


def _read_labels(path: Path) -> dict[str, tuple[int, int]]:
    """Image -> (line, label)."""
    rows = table_rows(path)
    _, header = next(rows, (1, []))
    if header[:1] != ["image"]:
        raise DataError(f"{path}:1: the first column is {header[:1] or 'missing'}, not 'image'")
    for column in header[1:]:
        if column not in CLASS_NAMES:
            raise DataError(f"{path}:1: unknown class {column!r}: the classes are {', '.join(CLASS_NAMES)}")
    if sorted(header[1:]) != sorted(CLASS_NAMES):
        raise DataError(f"{path}:1: the columns are image and each of {', '.join(CLASS_NAMES)} once, not {header}")
    order = [CLASS_NAMES.index(column) for column in header[1:]]

    labels: dict[str, tuple[int, int]] = {}
    for line, row in rows:
        where = f"{path}:{line}"
        name, values = row[0], row[1:]
        if name in labels:
            raise DataError(f"{where}: {name} stands in line {labels[name][0]} already: remove one of the two")
        ones = [position for position, value in zip(order, values, strict=False) if value in ("1", "1.0")]
        zeros = sum(value in ("0", "0.0") for value in values)
        if len(values) != len(order) or len(ones) != 1 or zeros != len(order) - 1:
            raise DataError(f"{where}: {name} is not one-hot: exactly one of the {len(order)} columns is 1, the rest 0")
        labels[name] = line, ones[0]
    if not labels:
        raise DataError(f"{path} holds no image")
    return labels


def read_lesions(path: Path) -> dict[str, str]:
    """Image -> lesion, from a table whose first columns are `image` and `lesion_id`.

    Raises:
        DataError: it is no such table; the message names the line.
    """
    rows = table_rows(path)
    _, header = next(rows, (1, []))
    if header[:2] != ["image", "lesion_id"]:
        raise DataError(f"{path}:1: the first columns are {header[:2]}, not image and lesion_id")
    lesions: dict[str, str] = {}
    for line, row in rows:
        if len(row) < 2 or not row[1]:
            raise DataError(f"{path}:{line}: no lesion_id for {row[0]}")
        if row[0] in lesions:
            raise DataError(f"{path}:{line}: {row[0]} stands in an earlier line already: remove one of the two")
        lesions[row[0]] = row[1]
    return lesions
