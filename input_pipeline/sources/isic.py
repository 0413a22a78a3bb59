"""Reads ISIC 2018 Task 3 in the layout of the ISIC archive, as it is downloaded.

    DIR/ISIC2018_Task3_Training_Input/ISIC_0024306.jpg ...
    DIR/ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv
    DIR/ISIC2018_Task3_Training_LesionGroupings.csv          optional
    DIR/ISIC2018_Task3_Validation_Input/ ...                 optional, as are the folders of Test
    DIR/ISIC2018_Task3_Validation_GroundTruth/ ...

The ground truth is one-hot, in the archive's numbers (`1.0`, `0.0`) or in the article's (`1`, `0`).
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, Faults, Part, collect_faults
from input_pipeline.image_files import index_by_stem, is_clutter
from input_pipeline.sources.tables import read_lesions, read_rows

CLASS_TITLES = {
    "MEL": "melanoma",
    "NV": "melanocytic nevus",
    "BCC": "basal cell carcinoma",
    "AKIEC": "actinic keratosis or intraepithelial carcinoma",
    "BKL": "benign keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular lesion",
}
CLASS_NAMES = tuple(CLASS_TITLES)
MALIGNANT = ("MEL", "BCC", "AKIEC")  # AKIEC includes lesions that are not invasive yet

INPUT = "ISIC2018_Task3_{}_Input"
GROUND_TRUTH = "ISIC2018_Task3_{}_GroundTruth"
GROUPINGS = "ISIC2018_Task3_Training_LesionGroupings.csv"
_DOWNLOADS = "https://challenge.isic-archive.com/data/#2018"

_logger = logging.getLogger(__name__)


def find_malignant(class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the malignant classes of the ISIC archive if `class_names` include all of them; otherwise none."""
    return MALIGNANT if set(MALIGNANT) <= set(class_names) else ()


def read_isic(folder: str | Path, part: Part = "Training", faults: Faults | None = None) -> Examples:
    """Reads the tables of one of the archive's sets and compares them with the image files.

    The images themselves are not opened: `validation.validate_images` does that.

    Args:
        folder: the folder that holds the folders and the CSV file above.
        part: the set to read. Lesions are known for the training set only, and only if the file of groupings is
            there; otherwise they are unknown.
        faults: the list to add faulty rows and files to, which are then left out; None raises them.

    Returns:
        The examples in the order of the ground truth; the classes in the archive's order.

    Raises:
        DataError: something is missing or contradictory; the message names the file and the line.
    """
    folder = Path(folder)
    images, truth = _find_part(folder, part)
    with collect_faults(faults) as collected:
        lines, labels = _read_labels(truth, collected)
        names = [f for f in sorted(os.listdir(images)) if f.lower().endswith(".jpg") and not is_clutter(f)]
        files = index_by_stem([f"{images}{os.sep}{name}" for name in names], collected)
        lesions = _read_groupings(folder / GROUPINGS, collected) if part == "Training" else None
        if lesions is None:
            lesions = {name: name for name in lines}
        for name, line in lines.items():
            if name not in files:
                collected.append(f"{truth}:{line}: there is no {images / name}.jpg: add the image or remove the row")
            elif name not in lesions:  # an image without a file is reported only once
                collected.append(
                    f"{truth}:{line}: {name} has no row in {folder / GROUPINGS}: add one, splits by lesion require it"
                )
        for name, file in files.items():
            if name not in lines:
                collected.append(f"{file} has no row in {truth}: add one or remove the image")
        complete = [name for name in labels if name in files and lesions.get(name)]
        examples = Examples(
            paths=np.array([files[name] for name in complete]),
            labels=np.array([labels[name] for name in complete], np.int32),
            lesions=np.array([lesions[name] for name in complete]),
            rows=np.array([f"{truth.name}:{lines[name]}" for name in complete]),
            class_names=CLASS_NAMES,
        )
        collected += examples.find_mixed_lesions()
    return examples


def _find_part(folder: Path, part: Part) -> tuple[Path, Path]:
    """Returns the folder of the images and the table of the ground truth, which both exist."""
    images = folder / INPUT.format(part)
    truth = folder / GROUND_TRUTH.format(part) / f"{GROUND_TRUTH.format(part)}.csv"
    if not folder.is_dir():
        raise DataError(f"no such data folder: {folder} (expected the one that holds {images.name})")
    for path in (images, truth):
        if not path.exists():
            raise DataError(
                f"{path} is missing: the data folder is the one that holds it; download it from {_DOWNLOADS}"
            )
    return images, truth


def _read_groupings(path: Path, faults: Faults) -> dict[str, str] | None:
    """Returns image -> lesion, or None without a file of groupings."""
    if path.exists():
        return read_lesions(path, faults)
    _logger.warning(
        "%s is missing, so lesions are unknown, and near-duplicates can be in both subsets of a split; "
        "download it from %s",
        path,
        _DOWNLOADS,
    )
    return None


def _read_labels(path: Path, faults: Faults) -> tuple[dict[str, int], dict[str, int]]:
    """Returns image -> line, for all rows, and image -> label, for the rows that are one-hot."""
    rows = read_rows(path)
    _, header = next(rows, (1, []))
    columns = _parse_header(path, header)
    lines: dict[str, int] = {}
    labels: dict[str, int] = {}
    for line, row in rows:
        name, values = row[0], row[1:]
        if name in lines:
            faults.append(f"{path}:{line}: {name} is in line {lines[name]} already: remove one of the two")
            continue
        lines[name] = line
        ones = [label for label, value in zip(columns, values, strict=False) if value in ("1", "1.0")]
        zeros = sum(value in ("0", "0.0") for value in values)
        if len(values) == len(columns) and len(ones) == 1 and zeros == len(columns) - 1:
            labels[name] = ones[0]
        else:
            faults.append(
                f"{path}:{line}: {name} is not one-hot: exactly one of the {len(columns)} columns must be 1, the rest 0"
            )
    if not lines:
        raise DataError(f"{path} lists no images")
    return lines, labels


def _parse_header(path: Path, header: list[str]) -> list[int]:
    """Returns the label of each column after the first."""
    if header[:1] != ["image"]:
        if header[:1] and set(header[1:]) <= {"0", "1", "0.0", "1.0"}:
            raise DataError(f"{path}:1: the header is missing: add the line image,{','.join(CLASS_NAMES)}")
        raise DataError(f"{path}:1: the first column is {header[:1] or 'missing'}, not 'image'")
    for column in header[1:]:
        if column not in CLASS_NAMES:
            raise DataError(f"{path}:1: unknown class {column!r}: the classes are {', '.join(CLASS_NAMES)}")
    if sorted(header[1:]) != sorted(CLASS_NAMES):
        raise DataError(f"{path}:1: the columns must be image and each of {', '.join(CLASS_NAMES)} once, not {header}")
    return [CLASS_NAMES.index(column) for column in header[1:]]
