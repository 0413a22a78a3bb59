"""The layouts that examples are read from, by the names `data.source` gives them; and how they are split."""

from pathlib import Path

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, Faults, Part, concatenate_examples
from input_pipeline.sources.folders import read_folders
from input_pipeline.sources.ham10000 import read_ham10000
from input_pipeline.sources.isic import read_isic
from input_pipeline.sources.sample import prepare_sample
from input_pipeline.sources.tfds import read_tfds
from input_pipeline.splits import check_split_name, split_examples
from input_pipeline.validation import validate_images

_WITH_SETS = ("isic2018", "tfds")
OFFICIAL: dict[str, Part] = {"official": "Validation", "official:test": "Test"}


def read_examples(source: str, folder: str | Path, part: Part = "Training", faults: Faults | None = None) -> Examples:
    """Reads the examples of a source.

    Args:
        source: `"isic2018"`, `"ham10000"`, `"folders"`, `"tfds"`, or `"sample"`, which has no folder.
        folder: where they are.
        part: which of the archive's sets; sources other than `"isic2018"` and `"tfds"` have none but that for training.
        faults: where to note what is wrong with files and rows, which are then left out; None raises it.

    Raises:
        DataError: something is missing or contradicts itself; the message says where.
    """
    if source == "isic2018":
        return read_isic(folder, part, faults)
    if source == "tfds":
        return read_tfds(folder, part)
    _check_part(source, part)
    if source == "sample":
        return read_isic(prepare_sample(), faults=faults)
    return {"ham10000": read_ham10000, "folders": read_folders}[source](folder, faults)


def read_split(
    source: str, folder: str | Path, how: str, *, val_fraction: float, seed: int
) -> tuple[Examples, Examples]:
    """Reads the examples of a source, looks at every image, and splits them.

    Args:
        source: as above.
        folder: as above.
        how: `"official"` or `"official:test"`, for the archive's own validation or test set beside all training
            images; or a way that `split_examples` knows.
        val_fraction: see `split_examples`.
        seed: see `split_examples`.

    Returns:
        Examples for training and for validation.

    Raises:
        DataError: something is wrong with the tables or the images, all of it in `details`; or they cannot be split so.
    """
    if how in OFFICIAL:
        _check_part(source, OFFICIAL[how])
    else:
        check_split_name(how)
    faults = Faults()
    examples = read_examples(source, folder, faults=faults)
    if how not in OFFICIAL:
        validate_images(examples, faults)
        faults.raise_if_any()
        return split_examples(examples, how, val_fraction=val_fraction, seed=seed)
    held_out = read_examples(source, folder, OFFICIAL[how], faults)
    both = concatenate_examples(examples, held_out)
    names = [Path(path).stem for path in both.paths]
    _, first = np.unique(names, return_index=True)
    for i in sorted(set(range(len(names))) - set(first)):
        faults.append(f"{both.paths[i]} ({both.rows[i]}) is in the training set too: remove it from one of the two")
    validate_images(both, faults)
    faults.raise_if_any()
    return examples, held_out


def _check_part(source: str, part: Part) -> None:
    if part != "Training" and source not in _WITH_SETS:
        raise DataError(f"data.source={source} has no official sets (isic2018 and tfds have): take another data.split")
