"""A model to evaluate: a trained run, read from its workdir, or bare weights, read from a file."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.csv_cells import unescape_formula
from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, normalize_name
from input_pipeline.sources.isic import CLASS_NAMES
from input_pipeline.sources.registry import OFFICIAL_SPLITS, SOURCES, read_split, read_valid_examples
from input_pipeline.splits import SUBSETS, format_split
from mobilenet_jax.errors import EvaluationError, WeightsError
from mobilenet_jax.weights.load import is_workdir, read_weights
from mobilenet_jax.weights.metadata import distinguish_names
from mobilenet_jax.weights.orbax import CHECKPOINTS, CheckpointName, find_checkpoint
from mobilenet_jax.weights.weights import Weights

_EQUAL_CLASSES = (
    "The probabilities are those of equally common classes: the network was trained with logit adjustment. Where a "
    "class is rare, its probability is too high."
)
_RARE_CLASSES = "Training gave rare classes more weight ({}). Where a class is rare, its probability is too high."
_TRAINING_CLASSES = "The probabilities assume that the classes are as frequent as in the training set."
_MAX_NAMES = 20  # names of classes in a message
ISIC_NAME = "ISIC 2018 Task 3 (HAM10000)"
_METRICS = ("loss", "accuracy", "balanced_accuracy")
_RECORDED = ("epoch", "step", *(f"train_{name}" for name in _METRICS))
_VALIDATED = tuple(f"val_{name}" for name in _METRICS)  # all of them, or none without validation images
_SECTIONS = ("loss", "optimizer", "early_stopping")  # reports describe these, if a run has them
_CONFIGURED = {"data": ("source", "dir", "split"), "init": ("weights",)}


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """Weights with the facts that an evaluation needs. Bare weights, without a workdir, have the first three only.

    Attributes:
        path: the workdir of a run, or the file, folder or location on the Hub of the weights.
        weights: with a classifier.
        class_names: in the order of the labels.
        prior: float `[classes]`, the class frequencies in training; None if unknown.
        images: the names of the training images; None if unknown.
        lesions: the lesions in the training set; None if unknown, as if the training data do not specify them.
        records: the metrics of the epochs, as in `metrics.jsonl`.
        best_epoch: the epoch of the best checkpoint; None if unknown.
        config: the training configuration as nested dicts; None if unknown.
    """

    path: str | Path
    weights: Weights
    class_names: tuple[str, ...]
    prior: np.ndarray | None = None
    images: frozenset[str] | None = None
    lesions: frozenset[str] | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None
    config: dict[str, Any] | None = None

    @property
    def is_isic(self) -> bool:
        """True if the training images are known to come from the ISIC archive."""
        return False

    def with_image_size(self, size: int) -> "EvaluatedModel":
        """Returns the model for images of another size, see `Weights.with_image_size`."""
        return replace(self, weights=self.weights.with_image_size(size))

    def describe_training_data(self) -> tuple[str, str]:
        """Returns the name of the training data and their license."""
        return "not known", "not known"

    def describe_prior(self) -> str | None:
        """Returns a sentence on the class frequencies that the probabilities assume; None if they are unknown."""
        return None

    @property
    def shows_lesions(self) -> bool:
        """True if the images show skin lesions: all classes are those of the ISIC archive."""
        return set(self.class_names) <= set(CLASS_NAMES)

    @property
    def default_split(self) -> str:
        """The split that is evaluated unless another one is requested."""
        return "all"

    def locate_images(self, data: str | None, source: str | None) -> tuple[str, str]:
        """Returns the folder of the images to evaluate and its layout, with defaults for None.

        Raises:
            EvaluationError: there is no default for the folder, or the sample, which has no folder, is given one.
        """
        if source == "sample" and data:
            raise EvaluationError(f"the bundled sample has no folder: specify the layout of {data} with --source")
        if not data and source != "sample":
            raise EvaluationError(f"{self.path} does not record the folder of its images: specify it with --data=DIR")
        return data or "", source or "folders"

    def read_examples(self, data: str | None, source: str | None, split: str) -> Examples:
        """Reads and validates the images of a split, with labels in the order of the model's classes.

        Args:
            data: folder of the images; None for that of the run.
            source: layout of the folder, see `config.data.source`; None for that of the run, or for class folders.
            split: `"validation"` or `"training"` of the run's `splits.csv`; `"all"` images of the folder, or of the
                training set of the ISIC archive; or its `"official"` validation set or `"official:test"` set.

        Raises:
            DataError: images or tables are damaged, or are not those of the split.
            EvaluationError: the model lacks a class of the data, or there is no such folder or split.
        """
        data, source = self.locate_images(data, source)
        if split in SUBSETS:
            examples = self._read_subsets(source, data)[SUBSETS.index(split)]
            if not len(examples):
                raise EvaluationError(
                    f"the run in {self.path} used all images for training: evaluate others, with "
                    "--data=DIR --split=all, or --split=official:test of the ISIC archive"
                )
            return self._relabel(examples)
        part = {"all": "Training", **OFFICIAL_SPLITS}.get(split)
        if part is None:
            known = ", ".join((*SUBSETS, "all", *OFFICIAL_SPLITS))
            raise EvaluationError(f"there is no split {split!r}: choose one of {known}")
        return self._relabel(read_valid_examples(source, data, part, skip_damaged=self._skips_damaged))

    @property
    def _skips_damaged(self) -> bool:
        return False

    def _read_subsets(self, source: str, data: str) -> tuple[Examples, Examples]:
        """Reads the training and the validation examples."""
        raise EvaluationError(
            f"{self.path} is not the workdir of a run, so it has no training and validation split: use --split=all"
        )

    def _relabel(self, examples: Examples) -> Examples:
        """Maps labels of the data to labels of the model. The data may lack some of its classes."""
        position = {normalize_name(name): i for i, name in enumerate(self.class_names)}
        names = [normalize_name(name) for name in examples.class_names]
        if unknown := sorted(set(names) - set(position)):
            raise EvaluationError(
                f"{self.path} lacks the classes {_list_names(unknown)}: leave out their images, or give them "
                f"one of the names {_list_names(self.class_names)}"
            )
        label_of = np.array([position[name] for name in names], np.int32)
        return replace(examples, labels=label_of[examples.labels], class_names=self.class_names)


@dataclass(frozen=True, kw_only=True)
class TrainedRun(EvaluatedModel):
    """A training run with the weights of one of its checkpoints."""

    prior: np.ndarray
    images: frozenset[str]
    config: dict[str, Any]

    @property
    def workdir(self) -> Path:
        """The folder of the run."""
        return Path(self.path)

    @property
    def is_isic(self) -> bool:
        """True if the training images come from the ISIC archive."""
        return SOURCES[self.config["data"]["source"]].is_isic

    def describe_training_data(self) -> tuple[str, str]:
        """Returns the name of the training data and their license."""
        if self.is_isic:
            return ISIC_NAME, "CC BY-NC 4.0"
        if self.config["data"]["source"] == "sample":
            return "synthetic lesions generated by the code, which are not medical data", "that of the code"
        return "images that are not published with the model", "not known"

    def describe_prior(self) -> str:
        """Returns a sentence on the class frequencies that the probabilities assume."""
        defaults = {"logit_adjustment": 0, "class_weights": "none", "sampling": "uniform"}
        settings = defaults | self.config["data"] | self.config.get("loss", {})  # earlier versions lack some
        changed = {name: settings[name] for name, default in defaults.items() if settings[name] != default}
        if changed == {"logit_adjustment": 1}:
            return _EQUAL_CLASSES
        listed = ", ".join(f"{name}={value}" for name, value in changed.items())
        return _RARE_CLASSES.format(listed) if changed else _TRAINING_CLASSES

    @property
    def default_split(self) -> str:
        """The split that is evaluated unless another one is requested."""
        return "validation"

    def locate_images(self, data: str | None, source: str | None) -> tuple[str, str]:
        """Returns the folder of the images to evaluate and its layout, by default those of the run.

        Raises:
            EvaluationError: the sample, which has no folder, is given one.
        """
        source = source or self.config["data"]["source"]
        own_folder = "" if source == "sample" else self.config["data"]["dir"]
        return super().locate_images(data or own_folder, source)

    @property
    def _skips_damaged(self) -> bool:
        return self.config["data"].get("skip_damaged", False)  # runs of earlier versions do not have the key

    def _read_subsets(self, source: str, data: str) -> tuple[Examples, Examples]:
        """Reads the training and the validation examples of the run."""
        table, split = self.workdir / "splits.csv", self.config["data"]["split"]
        if split not in (*OFFICIAL_SPLITS, "all"):
            split = str(table)
        subsets = read_split(source, data, split, val_fraction=0, seed=0, skip_damaged=self._skips_damaged)
        if split == str(table):
            return subsets
        if format_split(*subsets) != table.read_text(encoding="utf-8"):
            raise DataError(f"the images in {data} are not those of {table}")
        return subsets


def _list_names(names: Sequence[str]) -> str:
    """Returns the first names of classes, and dots if there are more."""
    return ", ".join([*names[:_MAX_NAMES], *(["..."] if len(names) > _MAX_NAMES else [])])


def read_records(workdir: Path) -> list[dict[str, Any]]:
    """Reads the metrics of the epochs from `metrics.jsonl`; empty if no epoch is finished.

    Raises:
        EvaluationError: the file is damaged.
    """
    path = workdir / "metrics.jsonl"
    records: list[dict[str, Any]] = []
    try:
        for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
            records.append(record := json.loads(line))
            is_validated = isinstance(record, dict) and any(key in record for key in _VALIDATED)
            keys = _RECORDED + _VALIDATED * is_validated
            values = [record.get(key) for key in keys] if isinstance(record, dict) else [None]
            if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
                raise ValueError(f"line {number} is not the record of an epoch")
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise EvaluationError(f"cannot read {path} ({error})") from error
    return records


def find_best_epoch(workdir: Path, records: Sequence[dict[str, Any]]) -> int | None:
    """Returns the epoch that the best checkpoint of a run was saved after; None if there is no such checkpoint.

    Training selects the best epoch. It is read from the checkpoint, so that the rule has one owner.
    """
    folder = workdir / CHECKPOINTS
    try:
        checkpoint = find_checkpoint(folder, "best") if folder.is_dir() else None
    except WeightsError:  # a damaged score, which matters only to those who read the best checkpoint
        return None
    return next((r["epoch"] for r in records if checkpoint and str(r["step"]) == checkpoint.name), None)


def read_trained_run(workdir: Path, checkpoint: CheckpointName = "best") -> TrainedRun:
    """Reads a run, finished or not, from its workdir.

    Raises:
        EvaluationError: the folder is not the workdir of a run, or is damaged.
        WeightsError: there is no complete checkpoint.
    """
    if not workdir.is_dir():
        raise EvaluationError(f"no such folder: {workdir}")
    try:
        config = json.loads((workdir / "config.json").read_text())
        _check_config(config)
        with open(workdir / "splits.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if any(None in row.values() for row in rows):
            raise ValueError("splits.csv: a row is too short")
        training = [row for row in rows if row["split"] == "training"]
        lesions_known = any(row["lesion"] != row["image"] for row in rows)  # otherwise each image is one
        records = read_records(workdir)
        weights = read_weights(workdir, checkpoint=checkpoint)
        names = weights.metadata.classes or ()
        labels = [unescape_formula(row["label"]) for row in training]
        counts = np.array([labels.count(name) for name in names])
        images, lesions = (frozenset(unescape_formula(row[key]) for row in training) for key in ("image", "lesion"))
    except FileNotFoundError as error:
        raise EvaluationError(
            f"{workdir} is not the workdir of a run: {Path(error.filename).name} is missing"
        ) from error
    except (OSError, KeyError, TypeError, ValueError, RecursionError, csv.Error) as error:
        raise EvaluationError(f"cannot read {workdir} ({error})") from error
    return TrainedRun(
        path=workdir,
        weights=weights,
        class_names=names,
        prior=counts / max(1, counts.sum()),
        images=images,
        lesions=lesions if lesions_known else None,
        records=records,
        best_epoch=find_best_epoch(workdir, records),
        config=config,
    )


def _check_config(config: Any) -> None:
    """Raises a ValueError if a configuration lacks a key that an evaluation or a model card needs."""
    for section, keys in _CONFIGURED.items():
        values = config.get(section) if isinstance(config, dict) else None
        missing = [key for key in keys if not isinstance(values, dict) or key not in values]
        if missing:
            raise ValueError(f"config.json lacks {section}.{missing[0]}")
    if invalid := [key for key in _SECTIONS if not isinstance(config.get(key, {}), dict)]:
        raise ValueError(f"config.json: {invalid[0]} is not a section")
    if config["data"]["source"] not in SOURCES:
        raise ValueError(f"config.json has the unknown data.source {config['data']['source']!r}")


def read_evaluated_model(
    path: str | Path, checkpoint: CheckpointName = "best", class_names: Sequence[str] | None = None
) -> EvaluatedModel:
    """Reads a run from its workdir, or bare weights in any format that `read_weights` reads.

    Args:
        path: the workdir, or the file, folder or location on the Hub of the weights.
        checkpoint: the checkpoint of a workdir.
        class_names: the classes in the order of the logits, for weights that do not record them.

    Raises:
        EvaluationError: the class names are recorded and given too, are not recorded and not given, or do not fit the
            classifier; or see `read_trained_run`.
        WeightsError: the weights cannot be read, or have no classifier.
    """
    if is_workdir(path):
        if class_names:
            raise EvaluationError(f"{path} records its class names: leave out --classes")
        return read_trained_run(Path(path), checkpoint)
    weights = read_weights(path, checkpoint=checkpoint)
    if weights.architecture.head is None:
        raise WeightsError(f"{path} holds no classifier, only features")
    recorded, outputs = weights.metadata.classes, weights.architecture.num_classes
    if recorded and class_names:
        raise EvaluationError(f"{path} records its class names, {', '.join(recorded)}: leave out --classes")
    names = distinguish_names(recorded) if recorded else tuple(class_names or ())
    if not names:
        raise EvaluationError(
            f"{path} does not record the names of its {outputs} classes: specify them in the order of its outputs with "
            "--classes=A,B,..."
        )
    if len(names) != outputs or len(set(names)) != outputs:
        raise EvaluationError(f"--classes has {len(set(names))} different names, but {path} has {outputs} classes")
    return EvaluatedModel(path=path, weights=weights, class_names=names)
