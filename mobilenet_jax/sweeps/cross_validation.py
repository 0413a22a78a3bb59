"""Cross-validation: one run per fold, and the evaluation of all images by the models that were not trained on them.

OUT/fold1 ... OUT/foldN            the workdirs
OUT/evaluation/NAME                the joint evaluation, as of `mobilenet-jax evaluate --folds`
OUT/evaluation/NAME/runs.json      the text of the `summary.json` of each evaluated run
"""

import contextlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import filelock
from ml_collections import ConfigDict

from input_pipeline.atomic_files import write_atomically
from mobilenet_jax.errors import ConfigError, TrainingError, WorkdirError
from mobilenet_jax.evaluation.calibration import Correction
from mobilenet_jax.evaluation.evaluate import name_evaluation
from mobilenet_jax.inference.views import count_views
from mobilenet_jax.model.mobilenet import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE
from mobilenet_jax.sweeps.runner import Job, Runner, describe_failures
from mobilenet_jax.training.checkpoints import has_checkpoints
from mobilenet_jax.training.config import check_config, find_differences, parse_config
from mobilenet_jax.training.data import list_uses_of_validation
from mobilenet_jax.training.setup import choose_epochs
from mobilenet_jax.weights.orbax import CHECKPOINTS

_logger = logging.getLogger(__name__)
_EVALUATED_RUNS = "runs.json"
_MUST_WAIT = (
    "runs are not complete: --command must wait for the end of its run, as in `sbatch --wait --wrap={command}`, and "
    "the configuration must not change meanwhile"
)


class EvaluationOptions(NamedTuple):
    """The options of a joint evaluation.

    Attributes:
        views: number of views per image, see `Classifier`.
        correction: the correction of the probabilities, which is cross-fitted; None applies none.
        image_size: height and width of the images; None for those of training.
        resamples: number of bootstrap samples.
    """

    views: int = 1
    correction: Correction | None = None
    image_size: int | None = None
    resamples: int = 1000


class FoldRun(NamedTuple):
    """The training run of one fold.

    Attributes:
        workdir: its folder.
        specification: the configuration, as `--config` takes it.
        overrides: arguments of the form `--config.SECTION.KEY=VALUE`.
    """

    workdir: Path
    specification: str
    overrides: tuple[str, ...]

    @property
    def job(self) -> Job:
        """The command that starts or continues the run."""
        return Job(
            self.workdir,
            ("train", f"--config={self.specification}", f"--workdir={self.workdir}", *self.overrides),
        )

    def load_config(self) -> ConfigDict:
        """Returns the validated configuration.

        Raises:
            ConfigError: it is not valid.
        """
        config, _ = parse_config(self.specification, self.overrides)
        check_config(config)
        return config

    def is_finished(self) -> bool:
        """Returns whether the run has been completed with the same configuration."""
        config = self.load_config()
        try:
            summary, stored = (
                json.loads((self.workdir / f"{name}.json").read_text()) for name in ("summary", "config")
            )
            epochs = config.train.epochs or choose_epochs(summary["training_images"] // config.train.batch_size)
            last, is_same_length = summary["last"]["epoch"], stored["train"]["epochs"] == epochs
            may_be_shorter = last <= epochs and config.optimizer.schedule != "cosine"
            is_stopped = summary["stopped_early"] and (is_same_length or may_be_shorter)
            is_complete = is_stopped or (is_same_length and last == epochs)
            differences = find_differences(stored, config.to_dict())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError):  # missing or damaged
            return False
        classes_from_data = config.model.num_classes == 0
        ignored = {"train.epochs", "model.num_classes"} if classes_from_data else {"train.epochs"}
        return is_complete and differences.keys() <= ignored


class CrossValidation(NamedTuple):
    """A cross-validation of one configuration.

    Attributes:
        folder: OUT above.
        specification: the configuration, as `--config` takes it.
        overrides: arguments of the form `--config.SECTION.KEY=VALUE`, in which `{fold}` stands for the number of the
            fold, from 1.
        folds: the number of folds, at least 2.
    """

    folder: Path
    specification: str
    overrides: tuple[str, ...]
    folds: int

    def list_runs(self) -> list[FoldRun]:
        """Returns the runs of the folds.

        Raises:
            ConfigError: the configuration is not valid.
        """
        runs = [
            FoldRun(
                self.folder / f"fold{fold}",
                self.specification,
                (
                    *(override.replace("{fold}", str(fold)) for override in self.overrides),
                    f"--config.data.split=fold:{fold}/{self.folds}",
                ),
            )
            for fold in range(1, self.folds + 1)
        ]
        runs[0].load_config()
        return runs

    def get_evaluation_folder(self, options: EvaluationOptions) -> Path:
        """Returns the folder of the joint evaluation."""
        name = name_evaluation("validation", options.views, options.correction, size=options.image_size)
        return self.folder / "evaluation" / name

    def make_evaluation_job(self, options: EvaluationOptions) -> Job:
        """Returns the command that evaluates the last checkpoints of the folds together.

        They are not the best ones, because these are chosen on the images that are evaluated.
        """
        folder = self.get_evaluation_folder(options)
        chosen = [f"--correct={options.correction}"] if options.correction else []
        chosen += [f"--image-size={options.image_size}"] if options.image_size else []
        folds = [str(run.workdir) for run in self.list_runs()]
        settings = [f"--out={folder}", f"--tta={options.views}", f"--resamples={options.resamples}", *chosen]
        return Job(folder, ("evaluate", *folds, "--folds", "--checkpoint=latest", *settings))

    def get_evaluation_time(self, options: EvaluationOptions) -> int:
        """Returns the time when the joint evaluation was completed, in nanoseconds; 0 if it was not."""
        try:
            return (self.get_evaluation_folder(options) / "report.html").stat().st_mtime_ns  # written last
        except OSError:
            return 0

    def mark_as_evaluated(self, options: EvaluationOptions) -> None:
        """Stores the summaries of the runs with the joint evaluation; the clocks of machines can differ."""
        write_atomically(self.get_evaluation_folder(options) / _EVALUATED_RUNS, json.dumps(self._read_summaries()))

    def is_evaluated(self, options: EvaluationOptions) -> bool:
        """Returns whether all runs are finished, and the joint evaluation is complete and of these runs."""
        try:
            evaluated = json.loads((self.get_evaluation_folder(options) / _EVALUATED_RUNS).read_text())
            is_current = self.read_results(options)["resamples"] == options.resamples
            is_current = is_current and evaluated == self._read_summaries()
            return is_current and all(run.is_finished() for run in self.list_runs())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or damaged
            return False

    def _read_summaries(self) -> list[str]:
        return [(run.workdir / "summary.json").read_text() for run in self.list_runs()]

    def list_pending_runs(self, options: EvaluationOptions) -> list[FoldRun]:
        """Returns the runs that are not finished, or whose checkpoints an evaluation needs and were removed."""
        is_evaluated = self.is_evaluated(options)
        return [
            run
            for run in self.list_runs()
            if not run.is_finished() or not (is_evaluated or has_checkpoints(run.workdir / CHECKPOINTS))
        ]

    def read_results(self, options: EvaluationOptions) -> dict[str, Any]:
        """Returns the content of the `metrics.json` of an evaluation; undefined metrics and intervals are NaN."""
        results: dict[str, Any] = json.loads((self.get_evaluation_folder(options) / "metrics.json").read_text())
        metrics, intervals = results["metrics"], results["intervals"]
        metrics = {name: math.nan if value is None else value for name, value in metrics.items()}
        intervals = {name: [math.nan if x is None else x for x in bounds] for name, bounds in intervals.items()}
        return {**results, "metrics": metrics, "intervals": intervals}


def run_cross_validations(
    cross_validations: Sequence[CrossValidation], folder: Path, runner: Runner, options: EvaluationOptions
) -> None:
    """Trains and evaluates cross-validations; finished runs are skipped.

    Cross-validations whose runs are all finished are evaluated even if others failed.

    Args:
        cross_validations: the cross-validations to run.
        folder: holds all of them; it is locked meanwhile.
        runner: runs the commands.
        options: the options of the evaluations.

    Raises:
        ConfigError: a configuration is not valid, or not for images of `options.image_size`, raised before the first
            run; or the runner's command ends before the run does.
        WorkdirError: another process uses the folder.
        Interrupted: see `Runner.run`.
        TrainingError: runs failed.
    """
    runs = [run for c in cross_validations for run in c.list_runs()]
    for cross_validation in cross_validations:
        _check_settings(cross_validation, options)
    waiting = [run.job for c in cross_validations for run in c.list_pending_runs(options)]
    with _lock(folder):
        if len(waiting) < len(runs):
            _logger.info("%d of %d runs are finished", len(runs) - len(waiting), len(runs))
        failed = runner.run(waiting)
        complete = [c for c in cross_validations if all(run.is_finished() for run in c.list_runs())]
        if not failed and len(complete) < len(cross_validations):
            raise ConfigError(_MUST_WAIT)
        pending = [c for c in complete if not c.is_evaluated(options)]
        times = [c.get_evaluation_time(options) for c in pending]
        failed_evaluations = runner.run([c.make_evaluation_job(options) for c in pending])
        evaluated = [c for c, t in zip(pending, times, strict=True) if c.get_evaluation_time(options) != t]
        if not failed_evaluations and len(evaluated) < len(pending):
            raise ConfigError(_MUST_WAIT)
        for cross_validation in evaluated:
            cross_validation.mark_as_evaluated(options)
        failed += failed_evaluations
    if failed:
        raise TrainingError(describe_failures(failed))


def _check_settings(cross_validation: CrossValidation, options: EvaluationOptions) -> None:
    first, second = (run.load_config() for run in cross_validation.list_runs()[:2])
    if options.image_size and first.model.head != "small":
        raise ConfigError(f"--image-size requires config.model.head=small, not {first.model.head}")
    size = options.image_size or first.data.image_size
    if not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
        raise ConfigError(f"--image-size is {size}, but must be from {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE}")
    if options.views > (max_views := count_views((size, size))):
        raise ConfigError(f"--tta is {options.views}, but images have at most {max_views} views")
    if (first.seed, first.data.source) != (second.seed, second.data.source):
        raise ConfigError("the folds must have the same config.seed and config.data.source, which determine the folds")
    for setting in list_uses_of_validation(first):
        _logger.warning("config.%s uses the fold that is evaluated, so the results are optimistic", setting)
    teacher = first.loss.soft_labels
    if teacher and teacher == second.loss.soft_labels:
        _logger.warning(
            "config.loss.soft_labels=%s is the same for all folds: unless its model was trained on other images, the "
            "results are optimistic; use one table per fold, with {fold} in its name",
            teacher,
        )


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / ".lock", blocking=False):
            yield
    except filelock.Timeout as error:
        raise WorkdirError(f"{folder} is in use by another process: wait for it, or choose another --out") from error


def check_overrides(keys: Iterable[str]) -> None:
    """Checks that overrides do not set keys that a cross-validation sets.

    Raises:
        ConfigError: a key is `data.split`.
    """
    if "data.split" in keys:
        raise ConfigError("config.data.split is set for each fold: leave it out")
