"""Cross-validation: one run per fold, and the evaluation of all images by the models that were not trained on them.

OUT/fold1 ... OUT/foldN            the workdirs
OUT/evaluation/NAME                the joint evaluation, as of `mobilenet-jax evaluate --folds`
"""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mobilenet_jax.evaluation.calibration import Correction
from mobilenet_jax.evaluation.evaluate import name_evaluation
from mobilenet_jax.sweeps.runner import Job, Runner
from mobilenet_jax.training.config import check_config, find_differences, parse_config
from mobilenet_jax.weights.load import read_weights

_FROM_DATA = ("model.num_classes", "train.epochs")  # keys whose 0 is replaced by a value of the data
_logger = logging.getLogger(__name__)


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


class TrainingRun(NamedTuple):
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
        try:
            json.loads((self.workdir / "summary.json").read_text())
            stored = json.loads((self.workdir / "config.json").read_text())
        except (OSError, ValueError):
            return False
        differences = find_differences(stored, self.load_config().to_dict())
        return all(new == 0 and key in _FROM_DATA for key, (_, new) in differences.items())


class CrossValidation(NamedTuple):
    """A cross-validation of one configuration.

    Attributes:
        folder: OUT above.
        specification: the configuration, as `--config` takes it.
        overrides: arguments of the form `--config.SECTION.KEY=VALUE`.
        folds: the number of folds, at least 2.
    """

    folder: Path
    specification: str
    overrides: tuple[str, ...]
    folds: int

    def list_runs(self) -> list[TrainingRun]:
        """Returns the runs of the folds.

        Raises:
            ConfigError: the configuration is not valid.
        """
        runs = [
            TrainingRun(
                self.folder / f"fold{fold}",
                self.specification,
                (*self.overrides, f"--config.data.split=fold:{fold}/{self.folds}"),
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

    def is_evaluated(self, options: EvaluationOptions) -> bool:
        """Returns whether the joint evaluation of the last checkpoints is complete."""
        folder = self.get_evaluation_folder(options)
        if not (folder / "report.html").exists():  # written last
            return False
        results = self.read_results(options)
        weights = [read_weights(run.workdir, checkpoint="latest") for run in self.list_runs()]
        if options.image_size:
            weights = [w.with_image_size(options.image_size) for w in weights]
        return results["weights"] == [w.identity for w in weights] and results["resamples"] == options.resamples

    def read_results(self, options: EvaluationOptions) -> dict[str, Any]:
        """Returns the content of the `metrics.json` of an evaluation; undefined metrics are NaN."""
        results: dict[str, Any] = json.loads((self.get_evaluation_folder(options) / "metrics.json").read_text())
        metrics = {name: math.nan if value is None else value for name, value in results["metrics"].items()}
        return {**results, "metrics": metrics}


def run_cross_validations(
    cross_validations: Sequence[CrossValidation], runner: Runner, options: EvaluationOptions
) -> None:
    """Trains and evaluates cross-validations; what is finished is not repeated.

    Raises:
        ConfigError: a configuration is not valid; raised before the first run.
        Interrupted, TrainingError: see `Runner.run`.
    """
    runs = [run for c in cross_validations for run in c.list_runs()]
    waiting = [run.job for run in runs if not run.is_finished()]
    if len(waiting) < len(runs):
        _logger.info("%d of %d runs are finished", len(runs) - len(waiting), len(runs))
    runner.run(waiting)
    runner.run([c.make_evaluation_job(options) for c in cross_validations if not c.is_evaluated(options)])
