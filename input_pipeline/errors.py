"""Errors that a user can fix. `mobilenet_jax/errors.py` extends the hierarchy.

The base class is defined here because this package imports nothing of `mobilenet_jax`.
"""

from collections.abc import Sequence

_MAX_LINE = 400  # characters
_MAX_LINES = 20  # the number of faults of one kind that are listed


class UserError(Exception):
    """Base of all errors that a user can fix: the message is one line that names the reason and the remedy.

    It is printable, whatever names of files or cells of tables it contains.

    Attributes:
        details: one line per fault, if several were found.
    """

    def __init__(self, message: str, details: Sequence[str] = ()):
        super().__init__(make_printable(message))
        self.details = [make_printable(line) for line in details]


class DataError(UserError):
    """The data set is not as expected. The message names the file, the line and the remedy."""


class DamagedImageError(DataError):
    """All faults of the data set are those of images, so that it can be read without these images."""


def shorten(lines: Sequence[str]) -> list[str]:
    """Returns the first twenty lines, and a line with the number of the others."""
    more = [f"and {len(lines) - _MAX_LINES} more"] if len(lines) > _MAX_LINES else []
    return [*lines[:_MAX_LINES], *more]


def make_printable(text: str) -> str:
    """Replaces characters that cannot be printed, or that could move a terminal's cursor, by `?`; keeps line breaks."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def get_first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, cut to 400 characters, or the error's type if it has no message."""
    return str(error).partition("\n")[0][:_MAX_LINE] or type(error).__name__
