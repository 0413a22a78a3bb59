"""A trained run, read from its workdir for evaluation."""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples
from input_pipeline.sources.registry import OFFICIAL_SPLITS, SOURCES, read_split, read_valid_examples
from input_pipeline.splits import SUBSETS, format_split
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.orbax import CheckpointName
from mobilenet_jax.weights.weights import Weights


@dataclass(frozen=True)
class TrainedRun:
    """A training run with the weights of one of its checkpoints.

    Attributes:
        workdir: its folder.
        config: its configuration as nested dicts.
        weights: the weights of the checkpoint.
        class_names: the class names in the order of the labels.
        prior: float `[classes]`, the class frequencies in training; a class without images counts as one image.
        lesions: the lesions in its training set.
        records: the metrics of its epochs, as in `metrics.jsonl`.
    """

    workdir: Path
    config: dict[str, Any]
    weights: Weights
    class_names: tuple[str, ...]
    prior: np.ndarray
    lesions: frozenset[str]
    records: list[dict[str, Any]]

    @property
    def is_isic(self) -> bool:
        """True if the training images come from the ISIC archive."""
        return SOURCES[self.config["data"]["source"]].is_isic

    def read_examples(self, data: str | None, source: str | None, split: str) -> Examples:
        """Reads and validates the images of a split, with labels in the order of the model's classes.

        Args:
            data: folder of the images; None for that of the run.
            source: layout of the folder, see `config.data.source`; None for that of the run.
            split: `"validation"` or `"training"` of the run's `splits.csv`; `"all"` images of the folder; or
                `"official"` or `"official:test"`, the validation or test set of the ISIC archive.

        Raises:
            DataError: images or tables are damaged, or are not those of the split.
            EvaluationError: the model lacks a class of the data, or a folder is given for the sample.
        """
        source = source or self.config["data"]["source"]
        if source == "sample" and data:
            raise EvaluationError(f"the sample has no folder: specify the layout of {data} with --source")
        data = data or self.config["data"]["dir"]
        if split in SUBSETS:
            return self._relabel(self._read_subsets(source, data)[SUBSETS.index(split)])
        part = OFFICIAL_SPLITS.get(split, "Training")
        return self._relabel(read_valid_examples(source, data, part, skip_damaged=self._skips_damaged))

    @property
    def _skips_damaged(self) -> bool:
        return self.config["data"].get("skip_damaged", False)  # runs of earlier versions do not have the key

    def _read_subsets(self, source: str, data: str) -> tuple[Examples, Examples]:
        """Reads the training and the validation examples of the run."""
        table, split = self.workdir / "splits.csv", self.config["data"]["split"]
        if split not in OFFICIAL_SPLITS:
            split = str(table)
        subsets = read_split(source, data, split, val_fraction=0, seed=0, skip_damaged=self._skips_damaged)
        if split == str(table):
            return subsets
        if format_split(*subsets) != table.read_text(encoding="utf-8"):
            raise DataError(f"the images in {data} are not those of {table}")
        return subsets

    def _relabel(self, examples: Examples) -> Examples:
        """Maps labels of the data to labels of the model. The data may lack some of its classes."""
        if not set(examples.class_names) <= set(self.class_names):
            raise EvaluationError(
                f"{self.workdir} was trained on the {len(self.class_names)} classes {', '.join(self.class_names)}, but "
                f"the data have {len(examples.class_names)}: {', '.join(examples.class_names)}"
            )
        label_of = np.array([self.class_names.index(name) for name in examples.class_names], np.int32)
        return replace(examples, labels=label_of[examples.labels], class_names=self.class_names)


def read_records(workdir: Path) -> list[dict[str, Any]]:
    """Reads the metrics of the epochs from `metrics.jsonl`; empty if no epoch is finished.

    Raises:
        EvaluationError: the file is damaged.
    """
    path = workdir / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    except ValueError as error:
        raise EvaluationError(f"cannot read {path} ({error})") from error


def read_trained_run(workdir: Path, checkpoint: CheckpointName = "best") -> TrainedRun:
    """Reads a run, finished or not, from its workdir.

    Raises:
        EvaluationError: the folder is not the workdir of a run, or is damaged.
        WeightsError: there is no complete checkpoint.
    """
    try:
        config = json.loads((workdir / "config.json").read_text())
        with open(workdir / "splits.csv", newline="", encoding="utf-8") as file:
            training = [row for row in csv.DictReader(file) if row["split"] == "training"]
        records = read_records(workdir)
        weights = read_weights(workdir, checkpoint=checkpoint)
        names = weights.metadata.classes or ()
        counts = np.array([max(1, sum(row["label"] == name for row in training)) for name in names])
        lesions = frozenset(row["lesion"] for row in training)
    except FileNotFoundError as error:
        raise EvaluationError(
            f"{workdir} is not the workdir of a run: {Path(error.filename).name} is missing"
        ) from error
    except (OSError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"cannot read {workdir} ({error})") from error
    return TrainedRun(workdir, config, weights, names, counts / counts.sum(), lesions, records)
