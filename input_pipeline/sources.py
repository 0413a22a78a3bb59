"""The layouts that examples are read from, by the names `data.source` gives them."""

from pathlib import Path

from input_pipeline.examples import Examples
from input_pipeline.folders import read_folders
from input_pipeline.ham10000 import read_ham10000
from input_pipeline.isic import read_isic
from input_pipeline.sample import sample_dir

_READERS = {"isic2018": read_isic, "ham10000": read_ham10000, "folders": read_folders}


def read_examples(source: str, folder: str | Path) -> Examples:
    """Reads the examples of a source: `"isic2018"`, `"ham10000"`, `"folders"`, or `"sample"`, which has no folder.

    Raises:
        DataError: something is missing or contradicts itself; the message says where.
    """
    return read_isic(sample_dir()) if source == "sample" else _READERS[source](folder)
