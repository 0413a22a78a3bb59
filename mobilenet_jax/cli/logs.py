"""Sends the log of both packages to the terminal: progress to stdout, warnings to stderr."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import TextIO

import absl.logging

from input_pipeline.errors import make_printable

PACKAGES = ("input_pipeline", "mobilenet_jax")

_logger = logging.getLogger(__name__)


class _LevelPrefix(logging.Formatter):
    """Formats a record as its printable message, preceded by its level in lower case at WARNING and above."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return prefix + make_printable(super().format(record))


class _Handler(logging.StreamHandler[TextIO]):
    """Writes records to a stream; if it is a closed pipe, as in `... | head -1`, drops this record and all later ones.

    A closed pipe does not stop a training run.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name of logging's method)
        if isinstance(sys.exception(), BrokenPipeError):
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), self.stream.fileno())  # so that the flush at exit succeeds too
        else:
            super().handleError(record)


def _make_repetition_filter() -> Callable[[logging.LogRecord], bool]:
    """Returns a filter that drops messages it has seen, such as warnings about the same images for each fold."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_known = message in seen
        seen.add(message)
        return not is_known

    return is_new


def configure_logging(level: int) -> None:
    """Shows log records of the two packages at `level` and above, without timestamps; WARNING and above go to stderr.

    Warnings are shown once; those of Python, such as Matplotlib's of a letter that its font lacks, without the place in
    the code.

    Orbax logs stack traces of errors that it also raises; they are hidden, since the error boundary reports the errors.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)
    stdout, stderr = (_Handler(s) if s else logging.NullHandler() for s in (sys.stdout, sys.stderr))  # None if closed
    stdout.addFilter(lambda record: record.levelno < logging.WARNING)
    stderr.setLevel(logging.WARNING)
    stderr.addFilter(_make_repetition_filter())
    for handler in (stdout, stderr):
        handler.setFormatter(_LevelPrefix())
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers[:] = [stdout, stderr]
        logger.setLevel(level)
        logger.propagate = False  # JAX and absl add handlers of their own to the root logger
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # Pillow's, of 89 megapixels; images may have 179
    warnings.showwarning = lambda message, *_args, **_kwargs: _logger.warning("%s", message)
