"""Sweeps: variants of a configuration times folds and seeds, and one table that compares them.

OUT/VARIANT/seedS/foldK     the workdirs; OUT/VARIANT/seedS is a cross-validation
OUT/sweep.md                the table
"""

import logging
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.atomic_files import write_atomically
from mobilenet_jax.errors import ConfigError, TrainingError
from mobilenet_jax.evaluation.bootstrap import Intervals, compute_intervals, format_difference
from mobilenet_jax.evaluation.metrics import Metrics, compute_balanced_accuracy, compute_key_metrics
from mobilenet_jax.evaluation.predictions import Predictions, concatenate_predictions, read_predictions
from mobilenet_jax.evaluation.trained_run import read_records
from mobilenet_jax.sweeps.cross_validation import (
    CrossValidation,
    EvaluationOptions,
    check_overrides,
    run_cross_validations,
)
from mobilenet_jax.sweeps.runner import Runner
from mobilenet_jax.training.config import list_keys
from mobilenet_jax.training.config_files import describe_error, execute_file, provide_configs

_NAME = re.compile(r"\w[\w.+=-]*")
_DIFFERENCE = "difference.balanced_accuracy"  # the last part marks a mean over classes for `compute_intervals`
_COLUMNS = {"balanced_accuracy": "balanced accuracy", "macro_auc": "AUC", "nll": "NLL", "ece": "calibration error"}

_logger = logging.getLogger(__name__)

Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """The description of a sweep, which `get_sweep()` of a file returns.

    Attributes:
        config: the configuration that all runs start from, as `--config` takes it.
        variants: overrides by the name of the variant, such as `{"mixup": {"augment.mixup": 0.2}}`. The first variant
            is the baseline of the differences.
        common: overrides of all variants.
        folds: the number of folds of the cross-validation, at least 2.
        seeds: the number of repetitions; repetition S, from 0, has `seed=S`, which changes the folds too.
        search: samples the overrides of a trial of Optuna from `trial.suggest_float(...)` and the like, instead of
            `variants`; None searches nothing.
        trials: the number of trials of the search.

    Raises:
        ConfigError: a name is not valid for a folder, a number is too small, or there is nothing to run.
    """

    config: str
    variants: Mapping[str, Overrides] = field(default_factory=dict)
    common: Overrides = field(default_factory=dict)
    folds: int = 5
    seeds: int = 1
    search: Callable[[Any], Overrides] | None = None
    trials: int = 20

    def __post_init__(self) -> None:
        for name in self.variants:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{name!r} is not the name of a variant: use letters, digits and _ . + = -, and begin with a "
                    "letter or digit"
                )
        for name, minimum in (("folds", 2), ("seeds", 1), ("trials", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < minimum:
                raise ConfigError(f"{name} is {value!r}, but must be an integer of at least {minimum}")
        if bool(self.variants) == bool(self.search):
            raise ConfigError("a sweep needs either variants or a search")
        for overrides in (self.common, *self.variants.values()):
            _check_keys(overrides)


class Variant(NamedTuple):
    """A variant of a sweep: its name, and its cross-validations, one per seed."""

    name: str
    cross_validations: list[CrossValidation]


def load_sweep(path: Path) -> Sweep:
    """Loads a sweep from a Python file that defines `get_sweep()`.

    Raises:
        ConfigError: there is no such file, it cannot be executed, or it defines no sweep.
    """
    if not path.is_file():
        raise ConfigError(f"no such file: {path}")
    sweep = execute_file(path, "get_sweep")
    if not isinstance(sweep, Sweep):
        raise ConfigError(f"{path}: get_sweep() returns {type(sweep).__name__}, expected Sweep")
    return sweep


def list_variants(sweep: Sweep, out: Path, overrides: Sequence[str] = ()) -> list[Variant]:
    """Returns the variants of a sweep without a search.

    Args:
        sweep: the sweep.
        out: its folder.
        overrides: arguments of the form `--config.SECTION.KEY=VALUE` for all runs, which replace `Sweep.common`.

    Raises:
        ConfigError: an override sets a key of a variant, or one that a sweep sets.
    """
    for name, values in sweep.variants.items():
        _check_conflicts(name, values, overrides)
    return [make_variant(sweep, out, name, values, overrides) for name, values in sweep.variants.items()]


def _check_keys(overrides: Overrides) -> None:
    """Raises if a sweep sets keys that its cross-validations and repetitions set."""
    check_overrides(overrides)
    if "seed" in overrides:
        raise ConfigError("config.seed is set for each repetition: use seeds=N")


def _check_conflicts(name: str, values: Overrides, overrides: Sequence[str]) -> None:
    """Raises if the command line overrides a key that a cross-validation or a variant sets."""
    keys = set(list_keys(overrides))
    check_overrides(keys)
    if conflict := sorted(keys & {"seed", *values}):
        raise ConfigError(f"config.{conflict[0]} is set by the variant {name} or by its repetitions: leave it out")


def make_variant(sweep: Sweep, out: Path, name: str, values: Overrides, overrides: Sequence[str]) -> Variant:
    """Returns the cross-validations of one variant; see `list_variants`."""
    common, own = (
        tuple(f"--config.{key}={value}" for key, value in changes.items()) for changes in (sweep.common, values)
    )
    return Variant(
        name,
        [
            CrossValidation(
                out / name / f"seed{seed}",
                sweep.config,
                (*common, *overrides, *own, f"--config.seed={seed}"),
                sweep.folds,
            )
            for seed in range(sweep.seeds)
        ],
    )


def run_variants(variants: Sequence[Variant], out: Path, runner: Runner, options: EvaluationOptions) -> None:
    """Trains and evaluates all variants, see `run_cross_validations`."""
    run_cross_validations([c for variant in variants for c in variant.cross_validations], out, runner, options)


def search(
    sweep: Sweep, out: Path, overrides: Sequence[str], runner: Runner, options: EvaluationOptions
) -> list[Variant]:
    """Searches with Optuna for the overrides with the highest balanced accuracy, one trial after another.

    Samples depend on the results of the earlier trials alone. A search that is started again with the same options
    therefore repeats its trials, whose runs are finished, and continues. If a trial that failed succeeds then, later
    ones can have other values, and are written to other folders, because the values are part of the name.

    Returns:
        The trials as variants, the best first.

    Raises:
        ConfigError: Optuna is not installed, `Sweep.search` fails, or an override is one of a trial.
        Interrupted: see `Runner.run`.
        TrainingError: all trials failed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("a search requires Optuna: run pip install -e '.[search]' in the repository") from error
    assert sweep.search is not None, "the caller has a search"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    variants = []
    for number in range(sweep.trials):
        trial = study.ask()
        try:
            with provide_configs():
                values = sweep.search(trial)
            if not isinstance(values, Mapping):
                raise ConfigError(f"it returned {values!r}, not a dictionary of overrides")
            _check_keys(values)
        except Exception as error:  # the user's function may raise anything
            raise ConfigError(f"the search cannot sample trial {number}: {describe_error(error)}") from error
        name = f"trial{number:03}-{zlib.crc32(repr(sorted(values.items())).encode()):08x}"
        _check_conflicts(name, values, overrides)
        variant = make_variant(sweep, out, name, values, overrides)
        try:
            run_variants([variant], out, runner, options)
        except TrainingError as error:  # such as a loss that is not finite; the others go on
            _logger.warning("%s failed: %s", variant.name, error)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        pooled = read_pooled_predictions(variant, options)
        value = compute_balanced_accuracy(pooled.labels, pooled.predicted)
        study.tell(trial, value)
        variants.append((value, variant))
    if not variants:
        raise TrainingError(f"all {sweep.trials} trials failed")
    return [variant for _, variant in sorted(variants, key=lambda pair: -pair[0])]


def read_pooled_predictions(variant: Variant, options: EvaluationOptions) -> Predictions:
    """Returns the predictions of all seeds of an evaluated variant, each seed sorted by image."""
    tables = []
    for cross_validation in variant.cross_validations:
        table = read_predictions(cross_validation.get_evaluation_folder(options) / "predictions.csv")
        tables.append(table.take(np.argsort(table.images)))
    return concatenate_predictions(tables)


def format_table(variants: Sequence[Variant], options: EvaluationOptions) -> str:
    """Formats a Markdown table of evaluated variants, with 95% intervals.

    The predictions of all seeds are pooled. The last columns are the difference of the balanced accuracy from that of
    the first one of `variants`, paired by lesion, with a star if its interval excludes 0, and the median seconds per
    epoch.

    Raises:
        ConfigError: the variants have different images.
        EvaluationError: predictions are missing or damaged.
    """
    baseline = read_pooled_predictions(variants[0], options)
    rows = [["variant", *_COLUMNS.values(), f"difference from {variants[0].name}", "seconds per epoch"]]
    for variant in variants:
        table = read_pooled_predictions(variant, options)
        if table.images.tolist() != baseline.images.tolist() or (table.labels != baseline.labels).any():
            raise ConfigError(
                f"the images of {variant.name} are not those of {variants[0].name}: the variants of a sweep need the "
                "same data"
            )
        subtract = partial(_subtract_baseline, table, baseline)
        intervals = compute_intervals(table.lesions, table.labels, subtract, options.resamples)
        metrics, seconds = subtract(np.arange(len(table))), _measure_seconds(variant)
        cells = [_format_value(metrics, intervals, name) for name in _COLUMNS]
        difference = format_difference(metrics[_DIFFERENCE], intervals[_DIFFERENCE], 3)
        rows.append([variant.name, *cells, "" if variant is variants[0] else difference, f"{seconds:.1f}"])
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write_table(variants: Sequence[Variant], options: EvaluationOptions, out: Path) -> str:
    """Writes `sweep.md`, and returns its text; raises as `format_table`."""
    evaluation = variants[0].cross_validations[0].get_evaluation_folder(options).name
    seeds, folds = len(variants[0].cross_validations), variants[0].cross_validations[0].folds
    images = len(read_pooled_predictions(variants[0], options)) // seeds
    text = (
        f"{images} images, {folds} folds, {seeds} seed{'s' * (seeds > 1)}; last epoch; evaluation {evaluation}\n\n"
        f"{format_table(variants, options)}\n"
    )
    write_atomically(out / "sweep.md", text)
    return text


def _subtract_baseline(table: Predictions, baseline: Predictions, rows: np.ndarray) -> Metrics:
    """Returns the metrics of some rows, and the difference of the balanced accuracy from that of the same rows."""
    metrics = compute_key_metrics(table.take(rows))
    accuracy = compute_balanced_accuracy(baseline.labels[rows], baseline.predicted[rows])
    difference = metrics["balanced_accuracy"] - accuracy
    return {**metrics, _DIFFERENCE: difference}


def _format_value(metrics: Metrics, intervals: Intervals, name: str) -> str:
    low, high = intervals[name]
    return f"{metrics[name]:.3f}" + ("" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]")


def _measure_seconds(variant: Variant) -> float:
    """Returns the median seconds per epoch, over all runs of a variant."""
    runs = [run for c in variant.cross_validations for run in c.list_runs()]
    return float(np.median([record["seconds"] for run in runs for record in read_records(run.workdir)]))
