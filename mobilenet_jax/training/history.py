"""The history of a run: the metrics of its epochs, and the results of the steps of an unfinished epoch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.preprocessing import InputScaling
from mobilenet_jax.training.early_stopping import EarlyStopping, is_lower_better
from mobilenet_jax.training.epoch_metrics import compute_epoch_metrics
from mobilenet_jax.training.step import BatchResult
from mobilenet_jax.weights.metadata import parse_input_scaling

Record = dict[str, Any]  # the metrics of one epoch: a line of metrics.jsonl

# The metrics that early stopping can monitor.
MONITORS = tuple(
    f"{prefix}_{name}" for prefix in ("val", "train") for name in ("loss", "accuracy", "balanced_accuracy")
)
_DEFAULT_MONITOR = "val_balanced_accuracy"  # selects the best epoch if early stopping is disabled

# Scores below that of any epoch that counts: of an epoch that early stopping ignores, and of a state not evaluated.
_IGNORED, NOT_EVALUATED = -1e29, -1e30

_RESULT_TYPES = {"loss": np.float32, "predicted": np.int32, "label": np.int32}


@dataclass
class History:
    """Everything but the `TrainState` that a run needs to continue; stored as JSON in every checkpoint.

    Attributes:
        data: fingerprints of the training and validation examples.
        classes: the class names in the order of the labels.
        input_scaling: the `(low, high)` range that pixel values 0 and 255 are mapped to.
        records: one record per finished epoch.
        results: the results of the finished steps of the current epoch, one entry per step or several concatenated.
        objectives: the objective of each of those steps.
        seconds: the time that earlier processes spent on the current epoch.
    """

    data: list[str]
    classes: list[str]
    input_scaling: InputScaling
    records: list[Record] = field(default_factory=list)
    results: list[BatchResult] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 0."""
        return len(self.records)

    @property
    def steps_done(self) -> int:
        """The number of finished steps of the current epoch."""
        return len(self.objectives)

    def add_step(self, result: BatchResult, objective: float) -> None:
        """Adds the results of a finished step."""
        self.results.append(result)
        self.objectives.append(objective)

    def compute_training_metrics(self) -> dict[str, float]:
        """Returns the metrics of the current epoch over all of its examples, and its mean `objective`."""
        return {**compute_epoch_metrics(self.results), "objective": float(np.mean(self.objectives))}

    def finish_epoch(self, record: Record) -> None:
        """Adds the record of the current epoch and begins the next one."""
        self.records.append(record)
        self.results, self.objectives, self.seconds = [], [], 0.0

    def to_json(self) -> dict[str, Any]:
        """Returns the history as JSON values (a stable on-disk format)."""
        columns = {
            name: np.concatenate([getattr(result, name) for result in self.results]).tolist()
            for name in _RESULT_TYPES
            if self.results
        }
        return {
            "epochs": list(self.records),  # copies: Orbax writes them while the next epoch adds its own
            "partial": {**columns, "objective": list(self.objectives), "seconds": self.seconds},
            "data": self.data,
            "classes": self.classes,
            "input_scaling": list(self.input_scaling),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "History":
        """Reads the result of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: the values are not those of a history.
        """
        partial, results = values["partial"], []
        if partial["objective"]:
            columns: dict[str, Any] = {name: np.array(partial[name], dtype) for name, dtype in _RESULT_TYPES.items()}
            columns["mask"] = np.ones(len(columns["label"]), bool)
            results = [BatchResult(**columns)]
        return cls(
            values["data"],
            values["classes"],
            parse_input_scaling(values["input_scaling"]),
            values["epochs"],
            results,
            list(partial["objective"]),
            float(partial.get("seconds", 0.0)),  # not stored by the first version
        )


def find_early_stop(records: Sequence[Record], settings: ConfigDict) -> int | None:
    """Returns the epoch after which early stopping ends the run, None if it does not.

    Args:
        records: the records of all finished epochs.
        settings: the configuration section `early_stopping`.
    """
    if not settings.enabled:
        return None
    stopping = EarlyStopping(**{name: value for name, value in settings.items() if name != "enabled"})
    return stopping.find_stopping_epoch([record[stopping.monitor] for record in records])


def compute_score(record: Record, settings: ConfigDict) -> float:
    """Returns the score that selects the best epoch: higher is better.

    Args:
        record: the record of the epoch.
        settings: the configuration section `early_stopping`. The score is its monitor, negated if lower is better, or
            the validation balanced accuracy if early stopping is disabled. Without validation examples, it is the
            number of the epoch, so that the last one is the best. The epochs that early stopping ignores have the
            lowest score.
    """
    if not settings.enabled:
        return record[_DEFAULT_MONITOR if _DEFAULT_MONITOR in record else "epoch"]
    if record["epoch"] <= settings.start_from_epoch:
        return _IGNORED
    value = record[settings.monitor]
    return -value if is_lower_better(settings.monitor, settings.mode) else value


def compute_stored_score(values: dict[str, Any], settings: ConfigDict) -> float:
    """Returns the score of a checkpoint.

    Args:
        values: its history, as `History.to_json` returns it. A state in the middle of an epoch was not evaluated.
        settings: see `compute_score`.
    """
    is_evaluated = values["epochs"] and not values["partial"]["objective"]
    return compute_score(values["epochs"][-1], settings) if is_evaluated else NOT_EVALUATED


def find_best(records: Sequence[Record], settings: ConfigDict) -> Record:
    """Returns the record with the highest score; among equal ones the latest, whose checkpoint is kept."""
    return max(records, key=lambda record: (compute_score(record, settings), record["epoch"]))
