"""Errors that a user can fix. `mobilenet_jax/errors.py` extends the hierarchy.

The base class is defined here because this package imports nothing of `mobilenet_jax`.
"""

from collections.abc import Sequence


class UserError(Exception):
    """Base of all errors that a user can fix: the message is one line that says what was found and what to do.

    Attributes:
        details: one line per fault, if several were found.
    """

    def __init__(self, message: str, details: Sequence[str] = ()):
        super().__init__(message)
        self.details = details


class DataError(UserError):
    """The data set is not as expected. The message names the file, the line and the remedy."""
