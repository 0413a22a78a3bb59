"""The registry of sources: the layouts that examples are read from, by their names in `data.source`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline.errors import DamagedImageError, DataError
from input_pipeline.examples import Examples, Faults, Part, concatenate_examples
from input_pipeline.sources.csv_table import read_csv_table
from input_pipeline.sources.folders import read_folders
from input_pipeline.sources.ham10000 import read_ham10000
from input_pipeline.sources.isic import read_isic
from input_pipeline.sources.sample import prepare_sample
from input_pipeline.sources.tfds import read_tfds
from input_pipeline.splits import check_split_name, split_examples
from input_pipeline.validation import drop_damaged_images, validate_images


class Source(NamedTuple):
    """A layout that examples are read from.

    Attributes:
        reader: reads the examples of a folder and a part; faulty rows and files are added to a list and left out, or
            raised if there is no list.
        has_official_sets: whether the source has the archive's validation and test sets.
        is_isic: whether its images are dermoscopic images of the ISIC archive.
    """

    reader: Callable[[str | Path, Part, Faults | None], Examples]
    has_official_sets: bool
    is_isic: bool


SOURCES: dict[str, Source] = {
    "sample": Source(lambda folder, part, faults: read_isic(prepare_sample(), part, faults), False, False),
    "isic2018": Source(read_isic, True, True),
    "ham10000": Source(lambda folder, part, faults: read_ham10000(folder, faults), False, True),
    "folders": Source(lambda folder, part, faults: read_folders(folder, faults), False, False),
    "tfds": Source(lambda folder, part, faults: read_tfds(folder, part), True, True),
    "csv": Source(lambda folder, part, faults: read_csv_table(folder, faults), False, False),
}

OFFICIAL_SPLITS: dict[str, Part] = {"official": "Validation", "official:test": "Test"}


def read_examples(source: str, folder: str | Path, part: Part = "Training", faults: Faults | None = None) -> Examples:
    """Reads the examples of a source.

    Args:
        source: one of `SOURCES`.
        folder: the folder of the data, for `"csv"` its table; `"sample"` ignores it.
        part: the archive's set; sources without official sets have the training set only.
        faults: the list to add faulty rows and files to, which are then left out; None raises them.

    Raises:
        DataError: the source is unknown, or something is missing or contradictory; the message names the place.
    """
    _check_part(source, part)
    examples = SOURCES[source].reader(folder, part, faults)
    examples.find_unprintable_names().raise_if_any()  # at once: such files cannot be examined further
    return examples


def read_valid_examples(
    source: str, folder: str | Path, part: Part = "Training", *, skip_damaged: bool = False
) -> Examples:
    """Reads the examples of a source and validates every image.

    Args:
        source: see `read_examples`.
        folder: see `read_examples`.
        part: see `read_examples`.
        skip_damaged: whether to leave out images with faults and to log them. Faults in tables are raised anyway.

    Raises:
        DataError: there are faults in the tables or the images, all of them in `details`; a `DamagedImageError` if
            all of them are in the images.
    """
    faults = Faults()
    examples = read_examples(source, folder, part, faults)
    return _validate(examples, faults, skip_damaged)


def read_split(
    source: str, folder: str | Path, split: str, *, val_fraction: float, seed: int, skip_damaged: bool = False
) -> tuple[Examples, Examples]:
    """Reads the examples of a source, validates every image, and splits the examples.

    Args:
        source: see `read_examples`.
        folder: see `read_examples`.
        split: `"official"` or `"official:test"`, for the archive's own validation or test set beside all training
            images; or a split of `split_examples`.
        val_fraction: see `split_examples`.
        seed: see `split_examples`.
        skip_damaged: see `read_valid_examples`.

    Returns:
        The examples for training and for validation.

    Raises:
        DataError: there are faults in the tables or the images, all of them in `details`; or the examples cannot be
            split this way.
    """
    if split in OFFICIAL_SPLITS:
        return _read_official_split(source, folder, OFFICIAL_SPLITS[split], skip_damaged)
    check_split_name(split)
    examples = read_valid_examples(source, folder, skip_damaged=skip_damaged)
    present = np.unique(examples.labels)
    if len(present) < 2:
        name = examples.class_names[present[0]]
        raise DataError(f"{folder} has the class {name} only: add the images of another class")
    return split_examples(examples, split, val_fraction=val_fraction, seed=seed)


def _read_official_split(source: str, folder: str | Path, part: Part, skip_damaged: bool) -> tuple[Examples, Examples]:
    """Reads the training set and one of the other sets, which must not have images in common."""
    _check_part(source, part)
    faults = Faults()
    training = read_examples(source, folder, faults=faults)
    held_out = read_examples(source, folder, part, faults)
    both = concatenate_examples(training, held_out)
    _, first = np.unique(both.names, return_index=True)
    for i in sorted(set(range(len(both))) - set(first)):
        faults.append(f"{both.paths[i]} ({both.rows[i]}) is in the training set too: remove it from one of the two")
    paths = _validate(both, faults, skip_damaged).paths
    intact = [examples.take(np.flatnonzero(np.isin(examples.paths, paths))) for examples in (training, held_out)]
    if not all(map(len, intact)):
        raise DataError(f"all images of the {part.lower() if len(intact[0]) else 'training'} set are damaged")
    return intact[0], intact[1]


def _validate(examples: Examples, table_faults: Faults, skip_damaged: bool) -> Examples:
    """Validates every image, and returns the examples, without damaged images if they are skipped.

    Raises:
        DamagedImageError: images have faults, and the tables have none.
        DataError: the tables have faults.
    """
    if skip_damaged:
        table_faults.raise_if_any()
        return drop_damaged_images(examples)
    error = DataError if table_faults else DamagedImageError
    validate_images(examples, table_faults)
    table_faults.raise_if_any(error)
    return examples


def _check_part(source: str, part: Part) -> None:
    """Raises a DataError for an unknown source, or for a part that the source does not have."""
    if source not in SOURCES:
        raise DataError(f"unknown data source {source!r}: the sources are {', '.join(SOURCES)}")
    if part != "Training" and not SOURCES[source].has_official_sets:
        names = " and ".join(name for name, entry in SOURCES.items() if entry.has_official_sets)
        raise DataError(f"the source {source} has no official sets ({names} have them): choose another split")
