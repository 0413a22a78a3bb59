"""Reads a CSV table of images, which can be anywhere.

    path,label,group,split
    photos/1.jpg,cat,tom,training
    photos/2.jpg,cat,tom,training
    more/1.png,dog,rex,validation

Paths are relative to the folder of the table. The column `group` is optional: images with the same text, such as the
images of one lesion, are in the same subset, and an empty cell is a group of its own. The column `split` is
optional: `training` (or `train`) and `validation` (or `valid`, `val`), in any case. Rows with `test` are left out,
and other columns are ignored.
"""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, Faults, collect_faults, name_by_path, normalize_name
from input_pipeline.sources.tables import read_rows

_REQUIRED, _OPTIONAL = ("path", "label"), ("group", "split")
_SUBSET_OF = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
_TEST = "test"

_logger = logging.getLogger(__name__)


class _Row(NamedTuple):
    line: int
    path: str
    label: str
    group: str
    subset: str


def read_csv_table(file: str | Path, faults: Faults | None = None) -> Examples:
    """Reads the table and checks that its images exist.

    Args:
        file: the table above.
        faults: the list to add faulty rows to, which are then left out; None raises them.

    Returns:
        The examples in the order of the table. The classes are its labels in alphabetical order, or by number if all
        of them are integers.

    Raises:
        DataError: the table or an image is missing, or a row is not as above; the message names the file and the line.
    """
    file = Path(file)
    if not file.is_file():
        hint = "class folders need data.source=folders" if file.is_dir() else "expected a CSV file"
        raise DataError(f"no such table: {file} ({hint})")
    with collect_faults(faults) as collected:
        rows, has_subsets = _read_table(file, collected)
        classes = _sort_classes({row.label for row in rows})
        number_of = {label: i for i, label in enumerate(classes)}
        examples = Examples(
            paths=np.array([row.path for row in rows], np.str_),
            labels=np.array([number_of[row.label] for row in rows], np.int32),
            lesions=np.array([row.group for row in rows], np.str_),
            rows=np.array([f"{file.name}:{row.line}" for row in rows], np.str_),
            class_names=tuple(classes),
            relative_paths=name_by_path([row.path for row in rows], file.parent),
            subsets=np.array([row.subset for row in rows], np.str_) if has_subsets else None,
        )
        examples = replace(examples, lesions=_name_lesions(examples))
        collected += examples.find_mixed_lesions()
    return examples


def _name_lesions(examples: Examples) -> np.ndarray:
    """Returns the groups. An image without one is a group of its name, or of a longer one that no other group has."""
    groups, names = examples.lesions.tolist(), examples.names.tolist()
    named, taken, lesions = set(groups), {*groups, *names}, []
    for group, name in zip(groups, names, strict=True):
        if not group and name in named:
            while name in taken:
                name += " (image)"
            taken.add(name)
        lesions.append(group or name)
    return np.array(lesions, np.str_)


def _read_table(file: Path, faults: Faults) -> tuple[list[_Row], bool]:
    """Returns the rows without a fault, and whether the table has the column `split`."""
    lines = read_rows(file)
    header = [column.strip() for column in next(lines, (1, []))[1]]
    for column in (*_REQUIRED, *_OPTIONAL):
        is_misspelt = any(name.lower() == column for name in header)
        if header.count(column) > 1 or (column not in header and (column in _REQUIRED or is_misspelt)):
            raise DataError(
                f"{file}:1: the columns are {header}, but path and label are required, and group and split optional, "
                "each of them once, in lower case, separated by commas"
            )
    folder = str(file.parent)
    line_of: dict[str, int] = {}
    spellings: dict[str, str] = {}  # the first one of each label or group
    rows, skipped = [], 0
    for line, cells in lines:
        if len(cells) != len(header):
            faults.append(f"{file}:{line}: the row has {len(cells)} cells, the header has {len(header)}")
            continue
        values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        if values.get("split", "").lower() == _TEST:
            skipped += 1
            continue
        path = _join(folder, values["path"])
        first = line_of.setdefault(os.path.normcase(path), line)
        row_faults = _find_faults(values, path, first if first < line else None)
        faults += [f"{file}:{line}: {fault}" for fault in row_faults]
        if not row_faults:
            subset = _SUBSET_OF[values["split"].lower()] if "split" in values else ""
            label, group = (
                spellings.setdefault(normalize_name(text), text) for text in (values["label"], values.get("group", ""))
            )
            rows.append(_Row(line, path, label, group, subset))
    if skipped:
        _logger.info("%s: %d rows of the test set are not read", file, skipped)
    if not rows and not faults:
        raise DataError(f"{file} lists no images")
    return rows, "split" in header


def _join(folder: str, path: str) -> str:
    """Joins paths as pathlib does, without its cost where neither has something like `./` or `//` to remove."""
    joined = os.path.join(folder, path)
    return joined if os.path.normpath(joined) == joined else str(Path(joined))


def _find_faults(values: dict[str, str], path: str, earlier: int | None) -> list[str]:
    """Returns all faults of a row; `earlier` is an earlier line with the same path."""
    if not values["path"]:
        return ["the path is empty: fill it in, or remove the row"]
    faults = []
    if earlier:
        faults.append(f"{values['path']} is in line {earlier} already: remove one of the two")
    elif error := _find_error(path):
        faults.append(error)
    if not values["label"]:
        faults.append(f"no label for {values['path']}: fill it in, or remove the row")
    if "split" in values and values["split"].lower() not in _SUBSET_OF:
        faults.append(f"split is {values['split']!r}, not one of {', '.join(_SUBSET_OF)}, {_TEST}: correct the cell")
    return faults


def _find_error(path: str) -> str | None:
    """Returns the reason that a file cannot be accessed, or None. Does not open it."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return f"there is no {path}: add the image or remove the row"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return None


def _sort_classes(labels: set[str]) -> Sequence[str]:
    """Sorts labels: integers by number, others alphabetically."""
    if all(re.fullmatch(r"-?\d+", label) for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)
