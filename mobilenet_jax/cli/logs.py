"""Sends the log of both packages to the terminal: progress to stdout, warnings to stderr."""

import logging
import sys

_PACKAGES = ("input_pipeline", "mobilenet_jax")


class _LevelPrefix(logging.Formatter):
    """Formats a record as its message, after its level in lower case from WARNING on."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return prefix + super().format(record)


def configure_logging(level: int) -> None:
    """Shows log records of the two packages from `level` on, without timestamps; WARNING and above go to stderr."""
    stdout, stderr = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    stdout.addFilter(lambda record: record.levelno < logging.WARNING)
    stderr.setLevel(logging.WARNING)
    for handler in (stdout, stderr):
        handler.setFormatter(_LevelPrefix())
    for name in _PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers[:] = [stdout, stderr]
        logger.setLevel(level)
