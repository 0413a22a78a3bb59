"""Reads the CSV tables that accompany images."""

import csv
from collections.abc import Iterator
from pathlib import Path

from input_pipeline.csv_cells import unescape_formula
from input_pipeline.errors import DataError
from input_pipeline.examples import Faults


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the line number, from 1, and the cells of each line of a CSV table; empty lines are skipped.

    Raises:
        DataError: the file is not CSV text in UTF-8.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            yield from ((reader.line_num, row) for row in reader if row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV text ({error}): save it as CSV in UTF-8") from error


def read_lesions(path: Path, faults: Faults) -> dict[str, str]:
    """Reads image -> lesion, from a table whose first columns are `image` and `lesion_id`.

    Args:
        path: the table.
        faults: the list to add faults to. An image without a lesion counts as a fault, and has the lesion "".

    Returns:
        The lesions without blanks around them, unless a lesion is named like its image.

    Raises:
        DataError: the table has other columns.
    """
    rows = read_rows(path)
    _, header = next(rows, (1, []))
    columns = [column.strip() for column in header[:2]]
    if columns != ["image", "lesion_id"]:
        raise DataError(
            f"{path}:1: the first columns are {columns}, not image and lesion_id, separated by commas: add the header "
            "if it is missing"
        )
    lesions: dict[str, str] = {}
    for line, row in rows:
        name, lesion = map(unescape_formula, [*row, ""][:2])
        lesion = lesion if lesion == name else lesion.strip()
        if name in lesions:
            faults.append(f"{path}:{line}: {name} is in an earlier line already: remove one of the two")
            continue
        lesions[name] = lesion
        if not lesion:
            faults.append(f"{path}:{line}: no lesion_id for {name}: add one, splits by lesion require it")
    return lesions
