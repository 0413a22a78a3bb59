"""Reads HAM10000 in the layout of its copy on Kaggle.

DIR/HAM10000_metadata.csv                  lesion_id, image_id, dx, ...
DIR/HAM10000_images_part_1/ISIC_0024306.jpg ...
DIR/HAM10000_images_part_2/ISIC_0029306.jpg ...
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, Faults, collect_faults
from input_pipeline.image_files import index_by_stem, is_clutter
from input_pipeline.sources.isic import CLASS_NAMES
from input_pipeline.sources.tables import read_rows

_TABLE = "HAM10000_metadata.csv"
_PARTS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
_COLUMNS = ("lesion_id", "image_id", "dx")
_DOWNLOADS = "https://www.kaggle.com/datasets/kmader/skin-cancer-mnist-ham10000"


class _Row(NamedTuple):
    line: int
    lesion: str
    label: int


def read_ham10000(folder: str | Path, faults: Faults | None = None) -> Examples:
    """Reads the table and compares it with the image files.

    Args:
        folder: the folder that holds the table and the two folders above.
        faults: the list to add faulty rows and files to, which are then left out; None raises them.

    Returns:
        The examples in the order of the table; the classes in the ISIC archive's order.

    Raises:
        DataError: something is missing or contradictory; the message names the file and the line.
    """
    folder = Path(folder)
    paths = _find_images(folder)
    with collect_faults(faults) as collected:
        files = index_by_stem(paths, collected)
        rows = _read_table(folder / _TABLE, files, collected)
        examples = Examples(
            paths=np.array([files[name] for name in rows]),
            labels=np.array([row.label for row in rows.values()], np.int32),
            lesions=np.array([row.lesion for row in rows.values()]),
            rows=np.array([f"{_TABLE}:{row.line}" for row in rows.values()]),
            class_names=CLASS_NAMES,
        )
        collected += examples.find_mixed_lesions()
    return examples


def _find_images(folder: Path) -> list[str]:
    """Returns the image files, after a check that all parts of the layout exist."""
    if not folder.is_dir():
        raise DataError(f"no such data folder: {folder} (expected the one that holds {_TABLE})")
    for name in (_TABLE, *_PARTS):
        if not (folder / name).exists():
            raise DataError(
                f"{folder / name} is missing: the data folder is the one that holds it; download it from {_DOWNLOADS}"
            )
    paths = (path for part in _PARTS for path in sorted((folder / part).iterdir()))
    return [str(path) for path in paths if path.suffix.lower() == ".jpg" and not is_clutter(path.name)]


def _read_table(table: Path, files: dict[str, str], faults: Faults) -> dict[str, _Row]:
    """Returns name -> row, for the rows without a fault."""
    numbered = read_rows(table)
    _, header = next(numbered, (1, []))
    if not set(_COLUMNS) <= set(header):
        raise DataError(
            f"{table}:1: the columns are {header}, but {', '.join(_COLUMNS)} are required: add the header if it is "
            "missing"
        )
    name_at = header.index("image_id")
    lines: dict[str, int] = {}
    rows: dict[str, _Row] = {}
    for line, cells in numbered:
        if len(cells) != len(header):
            faults.append(f"{table}:{line}: the row has {len(cells)} cells, the header has {len(header)}")
            lines |= {cells[name_at]: line} if len(cells) > name_at else {}
            continue
        row = {column: cells[header.index(column)].strip() for column in _COLUMNS}
        name = row["image_id"]
        if name in lines:
            faults.append(f"{table}:{line}: {name} is in line {lines[name]} already: remove one of the two")
            continue
        lines[name] = line
        row_faults = _find_faults(row, files)
        if row_faults:
            faults += [f"{table}:{line}: {fault}" for fault in row_faults]
        else:
            rows[name] = _Row(line, row["lesion_id"], CLASS_NAMES.index(row["dx"].upper()))
    faults += [
        f"{path} has no row in {table}: add one or remove the image" for n, path in files.items() if n not in lines
    ]
    if not lines:
        raise DataError(f"{table} lists no images")
    return rows


def _find_faults(row: dict[str, str], files: dict[str, str]) -> list[str]:
    """Returns all faults of a row."""
    name, faults = row["image_id"], []
    if row["dx"].upper() not in CLASS_NAMES:
        faults.append(f"unknown class {row['dx']!r}: the classes are {', '.join(CLASS_NAMES).lower()}")
    if name not in files:
        faults.append(f"there is no {name}.jpg in {' or '.join(_PARTS)}: add the image or remove the row")
    if not row["lesion_id"]:
        faults.append(f"no lesion_id for {name}: add one, splits by lesion require it")
    return faults
