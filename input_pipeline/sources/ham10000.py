"""Reads HAM10000 in the layout of its copy on Kaggle.

DIR/HAM10000_metadata.csv                  lesion_id, image_id, dx, ...
DIR/HAM10000_images_part_1/ISIC_0024306.jpg ...
DIR/HAM10000_images_part_2/ISIC_0029306.jpg ...
"""

from pathlib import Path

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, Faults
from input_pipeline.sources.isic import CLASS_NAMES, note_mixed_lesions, table_rows

_TABLE = "HAM10000_metadata.csv"
_PARTS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
_DOWNLOADS = "https://www.kaggle.com/datasets/kmader/skin-cancer-mnist-ham10000"


def read_ham10000(folder: str | Path, faults: Faults | None = None) -> Examples:
    """Reads the table and finds the images.

    Args:
        folder: the folder that holds the table and the two folders.
        faults: where to note what is wrong with rows and files, which are then left out; None raises it.

    Returns:
        The examples in the order of the table, the classes in the ISIC archive's order.

    Raises:
        DataError: something is missing or contradicts itself; the message names the file and the line.
    """
    noted = Faults() if faults is None else faults
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no such data folder: {folder} (--config.data.dir names the one that holds {_TABLE})")
    table = folder / _TABLE
    parts = [folder / part for part in _PARTS]
    for path in (table, *parts):
        if not path.exists():
            raise DataError(f"{path} is missing: config.data.dir names the folder that holds it; {_DOWNLOADS} has it")
    files = {path.stem: path for part in parts for path in sorted(part.iterdir()) if path.suffix.lower() == ".jpg"}
    rows = table_rows(table)
    _, header = next(rows, (1, []))
    if not {"lesion_id", "image_id", "dx"} <= set(header):
        raise DataError(
            f"{table}:1: the columns are {header}; lesion_id, image_id and dx are to be among them: add the header if "
            "it is missing"
        )
    lesion_at, name_at, class_at = (header.index(column) for column in ("lesion_id", "image_id", "dx"))
    lines: dict[str, int] = {}
    found: dict[str, tuple[int, str, int]] = {}
    for line, row in rows:
        where = f"{table}:{line}"
        if len(row) != len(header):
            noted.append(f"{where}: it has {len(row)} cells, the header has {len(header)}")
            lines |= {row[name_at]: line} if len(row) > name_at else {}
            continue
        name, lesion, dx = row[name_at], row[lesion_at], row[class_at].upper()
        if name in lines:
            noted.append(f"{where}: {name} stands in line {lines[name]} already: remove one of the two")
            continue
        lines[name] = line
        before = len(noted)
        if dx not in CLASS_NAMES:
            noted.append(f"{where}: unknown class {row[class_at]!r}: the classes are {', '.join(CLASS_NAMES).lower()}")
        if name not in files:
            noted.append(f"{where}: there is no {name}.jpg in {' or '.join(_PARTS)}: add the image or remove the row")
        if not lesion:
            noted.append(f"{where}: no lesion_id for {name}: add one, a split by lesion needs it")
        if len(noted) == before:
            found[name] = line, lesion, CLASS_NAMES.index(dx)
    noted += [
        f"{path} has no row in {table}: add one or remove the image" for n, path in files.items() if n not in lines
    ]
    if not lines:
        raise DataError(f"{table} holds no image")
    examples = Examples(
        paths=np.array([str(files[name]) for name in found]),
        labels=np.array([label for _, _, label in found.values()], np.int32),
        lesions=np.array([lesion for _, lesion, _ in found.values()]),
        rows=np.array([f"{_TABLE}:{line}" for line, _, _ in found.values()]),
        class_names=CLASS_NAMES,
    )
    note_mixed_lesions(examples, noted)
    if faults is None:
        noted.raise_if_any()
    return examples
