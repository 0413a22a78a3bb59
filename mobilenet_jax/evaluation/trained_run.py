"""What a training run left in its workdir, read for evaluation."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, Faults
from input_pipeline.sources.registry import OFFICIAL, read_examples, read_split
from input_pipeline.splits import SIDES, format_split
from input_pipeline.validation import validate_images
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.weights.load import Checkpoint, read_weights
from mobilenet_jax.weights.weights import Weights

ISIC_SOURCES = ("isic2018", "ham10000", "tfds")


@dataclass(frozen=True)
class Trained:
    """A run.

    Attributes:
        workdir: its folder.
        config: as nested dicts.
        weights: of one of its checkpoints.
        class_names: in the order of the labels.
        prior: float `[classes]`, their shares in training; a class without an image counts as one image.
        lesions: those that were trained on.
        records: of its epochs, as `metrics.jsonl` has them.
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
        """Whether it was trained on images of the ISIC archive, in one of their layouts."""
        return self.config["data"]["source"] in ISIC_SOURCES

    def examples(self, data: str | None, source: str | None, split: str) -> Examples:
        """The images of a split, each looked at, with the model's labels.

        Args:
            data: the folder of the images; None for that of the run.
            source: its layout, see `config.data.source`; None for that of the run.
            split: `"validation"` or `"training"`, as the run's `splits.csv` has them; `"all"`; `"official"` or
                `"official:test"`, the archive's sets.

        Raises:
            DataError: the images are not as they should be, or not those of the split.
            EvaluationError: their classes are not the model's, or the sample's images are looked for in a folder.
        """
        source = source or self.config["data"]["source"]
        if source == "sample" and data:
            raise EvaluationError(f"the embedded sample is in no folder: --source says the layout of {data}")
        data = data or self.config["data"]["dir"]
        if split in SIDES:
            return self._relabelled(self._sides(source, data)[SIDES.index(split)])
        faults = Faults()
        examples = read_examples(source, data, OFFICIAL.get(split, "Training"), faults)
        validate_images(examples, faults)
        faults.raise_if_any()
        return self._relabelled(examples)

    def _sides(self, source: str, data: str) -> tuple[Examples, Examples]:
        """What was trained on, and what was held out."""
        table, how = self.workdir / "splits.csv", self.config["data"]["split"]
        if how not in OFFICIAL:
            return read_split(source, data, str(table), val_fraction=0, seed=0)
        sides = read_split(source, data, how, val_fraction=0, seed=0)
        if format_split(*sides) != table.read_text(encoding="utf-8"):
            raise DataError(f"the images in {data} are not those of {table}")
        return sides

    def _relabelled(self, examples: Examples) -> Examples:
        if set(examples.class_names) != set(self.class_names):
            raise EvaluationError(
                f"{self.workdir} was trained on the {len(self.class_names)} classes {', '.join(self.class_names)}; "
                f"the data have {len(examples.class_names)}: {', '.join(examples.class_names)}"
            )
        position = np.array([self.class_names.index(name) for name in examples.class_names], np.int32)
        return Examples(examples.paths, position[examples.labels], examples.lesions, examples.rows, self.class_names)


def read_records(workdir: Path) -> list[dict[str, Any]]:
    """What `metrics.jsonl` holds: a record an epoch; none if no epoch is done.

    Raises:
        EvaluationError: it is damaged.
    """
    path = workdir / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    except ValueError as error:
        raise EvaluationError(f"{path} cannot be read ({error})") from error


def read_trained_run(workdir: Path, checkpoint: Checkpoint = "best") -> Trained:
    """Reads what evaluation needs of a run, finished or not.

    Raises:
        EvaluationError: the folder is not a run's, or damaged.
        WeightsError: it has no whole checkpoint.
    """
    try:
        config = json.loads((workdir / "config.json").read_text())
        with open(workdir / "splits.csv", newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "training"]
        records = read_records(workdir)
        weights = read_weights(workdir, checkpoint=checkpoint)
        names = weights.metadata.classes or ()
        counts = np.array([max(1, sum(row["label"] == name for row in rows)) for name in names])
        lesions = frozenset(row["lesion"] for row in rows)
    except FileNotFoundError as error:
        raise EvaluationError(f"{workdir} is no workdir of a run: {Path(error.filename).name} is missing") from error
    except (OSError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{workdir} cannot be read ({error})") from error
    return Trained(workdir, config, weights, names, counts / counts.sum(), lesions, records)
