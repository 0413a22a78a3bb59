"""Cross-validation: one run per fold, and the evaluation of all images by the models that were not trained on them.

OUT/fold1 ... OUT/foldN            the workdirs
OUT/evaluation/NAME                the joint evaluation, as of `mobilenet-jax evaluate --folds`
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.sources.isic import find_malignant
from mobilenet_jax.evaluation.calibration import Correction
from mobilenet_jax.evaluation.evaluate import evaluate, name_evaluation
from mobilenet_jax.evaluation.trained_run import read_trained_run
from mobilenet_jax.reporting.report import write_report
from mobilenet_jax.sweeps.runner import TrainingRun


class EvaluationOptions(NamedTuple):
    """The options of a joint evaluation.

    Attributes:
        views: number of views per image, see `Classifier`.
        correction: the correction of the probabilities, which is cross-fitted; None applies none.
        resamples: number of bootstrap samples.
    """

    views: int = 1
    correction: Correction | None = None
    resamples: int = 1000


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
        return self.folder / "evaluation" / name_evaluation("validation", options.views, options.correction)

    def evaluate(self, options: EvaluationOptions) -> None:
        """Evaluates the last checkpoints of the folds together, and writes the report unless it exists.

        The last epoch is evaluated, because the best one is chosen on the images that are evaluated.

        Raises:
            EvaluationError, WeightsError, DataError: a run is missing, or a file cannot be read.
        """
        runs = [read_trained_run(run.workdir, "latest") for run in self.list_runs()]
        folder = self.get_evaluation_folder(options)
        if _is_evaluation_of(folder, [run.weights.identity for run in runs], options):
            return
        evaluation = evaluate(
            runs,
            split="validation",
            views=options.views,
            correction=options.correction,
            malignant=find_malignant(runs[0].class_names),
            resamples=options.resamples,
        )
        write_report(evaluation, folder)

    def read_results(self, options: EvaluationOptions) -> dict[str, Any]:
        """Returns the content of the `metrics.json` of an evaluation; undefined metrics are NaN."""
        results: dict[str, Any] = json.loads((self.get_evaluation_folder(options) / "metrics.json").read_text())
        metrics = {name: math.nan if value is None else value for name, value in results["metrics"].items()}
        return {**results, "metrics": metrics}


def _is_evaluation_of(folder: Path, identities: Sequence[str], options: EvaluationOptions) -> bool:
    """Returns whether a folder holds the complete report of these checkpoints and options."""
    expected = {"weights": list(identities), "resamples": options.resamples}
    try:
        facts = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return False
    is_complete = (folder / "report.html").exists()  # written last
    return is_complete and all(facts.get(key) == value for key, value in expected.items())
