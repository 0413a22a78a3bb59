"""Reads, validates and splits the examples of a run, and mixes their labels with those of a teacher."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.errors import DamagedImageError, DataError
from input_pipeline.examples import Examples
from input_pipeline.sources.registry import read_split
from input_pipeline.splits import count_crossing_lesions, format_split, hash_split, resolve_split
from mobilenet_jax.cluster import broadcast_text
from mobilenet_jax.errors import ConfigError
from mobilenet_jax.evaluation.predictions import read_predictions
from mobilenet_jax.training.losses import compute_logit_offset

_logger = logging.getLogger(__name__)


def load_examples(data: ConfigDict, num_classes: int, seed: int) -> tuple[Examples, Examples]:
    """Reads, validates and splits the examples, and logs their numbers.

    Args:
        data: the configuration section `data`.
        num_classes: the number of classes of the model; 0 for that of the data.
        seed: seed of the split.

    Returns:
        The training and the validation examples.

    Raises:
        DataError: see `input_pipeline.sources.registry.read_split`.
        ConfigError: the number of classes of the data differs.
    """
    try:
        training, validation = read_split(
            data.source,
            data.dir,
            data.split,
            val_fraction=data.val_fraction,
            seed=seed,
            skip_damaged=data.skip_damaged,
        )
    except DamagedImageError as error:
        raise DataError(f"{error}; data.skip_damaged=True leaves out damaged images", error.details) from error
    if num_classes not in (0, len(training.class_names)):
        raise ConfigError(
            f"config.model.num_classes is {num_classes}, but the data have {len(training.class_names)} classes: "
            f"use --config.model.num_classes={len(training.class_names)}, or 0 for the number of classes of the data"
        )
    _log_numbers(training, validation, resolve_split(training, data.split))
    return training, validation


def check_same_data(fingerprints: Sequence[str]) -> None:
    """Checks that all processes of a cluster have read the same examples: each of them reads the data itself.

    Args:
        fingerprints: those of the examples that this process has read.

    Raises:
        DataError: the first process has read others.
    """
    if broadcast_text(" ".join(fingerprints)) != " ".join(fingerprints):
        raise DataError(
            "the images or labels of this process differ from those of process 0: all processes need the same data"
        )


def check_validation(config: ConfigDict, validation: Examples) -> None:
    """Checks that there are validation examples if a setting needs them; `data.split=all` leaves none.

    Raises:
        ConfigError: there are none.
    """
    uses = list_uses_of_validation(config)
    if uses and not len(validation):
        raise ConfigError(
            f"config.data.split={config.data.split} leaves no validation images, but config.{uses[0]} needs them: "
            "choose another config.data.split, or change that setting"
        )


def list_uses_of_validation(config: ConfigDict) -> list[str]:
    """Returns the settings, as `KEY=VALUE`, by which training depends on the validation images."""
    monitor = config.early_stopping.monitor
    uses = {
        "optimizer.schedule=plateau": config.optimizer.schedule == "plateau",
        f"early_stopping.monitor={monitor}": config.early_stopping.enabled and monitor.startswith("val_"),
    }
    return [setting for setting, is_active in uses.items() if is_active]


def add_soft_labels(training: Examples, loss: ConfigDict) -> Examples:
    """Returns training examples with the soft labels that the configuration section `loss` specifies.

    They are the mean of the one-hot label and of the probabilities of a teacher, weighted by `soft_labels_weight`:
    knowledge distillation (Hinton et al. 2015, arXiv:1503.02531) at the temperature 1.

    With `logit_adjustment`, the teacher must have been trained with it too: its probabilities p are those of equally
    frequent classes, unlike the labels. They are replaced by those proportional to p * frequency**logit_adjustment.

    Raises:
        ConfigError: the table has other classes, or lacks an image.
        EvaluationError: the table cannot be read.
    """
    if not loss.soft_labels:
        return training
    teacher = read_predictions(Path(loss.soft_labels))
    if set(teacher.class_names) != set(training.class_names):
        raise ConfigError(
            f"{loss.soft_labels} has the classes {', '.join(teacher.class_names)}, but the data have "
            f"{', '.join(training.class_names)}"
        )
    row_of = {name: row for row, name in enumerate(teacher.images.tolist())}
    names = training.names.tolist()
    if missing := [name for name in names if name not in row_of]:
        raise ConfigError(
            f"{loss.soft_labels} lacks {len(missing)} training images, the first: {missing[0]}: evaluate the teacher "
            "on them with --split=training or --split=all"
        )
    columns = [teacher.class_names.index(name) for name in training.class_names]
    probabilities = teacher.probabilities[[row_of[name] for name in names]][:, columns]
    offset = compute_logit_offset(training.labels, len(columns), loss.logit_adjustment)
    probabilities = probabilities if offset is None else probabilities * np.exp(offset.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    one_hot, weight = np.eye(len(columns))[training.labels], loss.soft_labels_weight
    return replace(training, soft_labels=((1 - weight) * one_hot + weight * probabilities).astype(np.float32))


def _log_numbers(training: Examples, validation: Examples, split: str) -> None:
    """Logs the numbers of images and lesions in both subsets of a split.

    Warns of lesions that are in both, and of classes that cannot be learned.
    """
    subsets = {"training": training, "validation": validation} if len(validation) else {"training": training}
    for subset, examples in subsets.items():
        counts = np.bincount(examples.labels, minlength=len(examples.class_names))
        table = ", ".join(f"{name} {count}" for name, count in zip(examples.class_names, counts, strict=True))
        lesions = f" of {len(set(examples.lesions))} lesions" if examples.lesions_known else ""
        _logger.info("%s: %d images%s (%s)", subset, len(examples), lesions, table)
    crossing, split_hash = count_crossing_lesions(training, validation), hash_split(format_split(training, validation))
    known = [examples.lesions_known for examples in subsets.values()]
    common = f"; lesions in both subsets: {crossing}" if all(known) else ""
    if not any(known) and not crossing:
        common = "; it is not known which images show the same object"
    _logger.info("split %s, hash %s%s", split, split_hash[:12], common)
    if training.subsets is not None and not (split in ("given", "all") or split.endswith(".csv")):
        _logger.warning("data.split=%s ignores the subsets that the data assign", split)
    if crossing:
        given = "move all images of each lesion to one subset, or use data.split=fold:1/5"
        advice = "use data.split=lesion" if training.subsets is None else given
        _logger.warning("%d lesions are in both subsets, so validation metrics are optimistic; %s", crossing, advice)
    if untrained := sorted({training.class_names[c] for c in {*validation.labels} - {*training.labels}}):
        _logger.warning(
            "there are no training images of %s, which the model cannot learn; use another split, or add images",
            ", ".join(untrained),
        )
