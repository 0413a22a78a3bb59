"""All errors that a user can fix; anything else is a bug and shows its traceback."""

from input_pipeline.errors import DataError, UserError

__all__ = [
    "ConfigError", "DataError", "EvaluationError", "ExportError", "Interrupted", "TrainingError", "UserError",
    "WeightsError", "WorkdirError",
]  # fmt: skip


class ConfigError(UserError):
    """A configuration has an unknown key or a value out of range. The message names the valid ones."""


class WeightsError(UserError):
    """Weights are damaged, do not belong to the model, or cannot be written, downloaded or published."""


class WorkdirError(UserError):
    """A training run cannot use its working directory. The message says why and what to do."""


class TrainingError(UserError):
    """Training cannot continue. The message says at which step it stopped and what to try."""


class EvaluationError(UserError):
    """A model or its predictions cannot be evaluated. The message says what is missing and what to do."""


class ExportError(UserError):
    """A model cannot be exported. The message says what is missing, or by how much the exported file is wrong."""


class Interrupted(Exception):  # noqa: N818 (not an error: the run continues when it is started again)
    """A training run was asked to stop and has saved its state. The message says how to continue."""
