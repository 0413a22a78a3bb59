"""All errors that a user can fix; anything else is a bug and shows its traceback."""

from input_pipeline.errors import DataError, UserError

__all__ = [
    "ConfigError", "DataError", "EvaluationError", "ExportError", "Interrupted", "TrainingError", "UserError",
    "WeightsError", "WorkdirError", "is_out_of_memory",
]  # fmt: skip


class ConfigError(UserError):
    """A configuration, an option or the environment is not valid. The message names the valid values, or the remedy."""


class WeightsError(UserError):
    """Weights are damaged, do not belong to the model, or cannot be written, downloaded or published."""


class WorkdirError(UserError):
    """A training run cannot use its working directory. The message names the reason and the remedy."""


class TrainingError(UserError):
    """Training cannot continue, or runs of a sweep failed. The message names the reason and possible remedies."""


class EvaluationError(UserError):
    """A model or its predictions cannot be evaluated. The message names the reason and the remedy."""


class ExportError(UserError):
    """A model cannot be exported. The message names the reason, such as the error of the exported file."""


class Interrupted(Exception):  # noqa: N818 (not an error: the run continues when it is started again)
    """A training run has saved its state and stops, as requested. The message explains how to continue."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error is a lack of memory, of Python or of a device."""
    return isinstance(error, MemoryError) or str(error).startswith("RESOURCE_EXHAUSTED")  # XLA's errors start so
