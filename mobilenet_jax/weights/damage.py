"""Turns the exceptions that libraries raise for damaged files into errors of one line."""

import contextlib
from collections.abc import Iterator

from mobilenet_jax.errors import WeightsError

_MAX_LENGTH = 200


def get_first_line(error: Exception) -> str:
    """Returns the first line of an error's message, cut to 200 characters, or the error's type if there is none."""
    return str(error).partition("\n")[0][:_MAX_LENGTH] or type(error).__name__


@contextlib.contextmanager
def report_damage() -> Iterator[None]:
    """Raises `WeightsError` for any exception in its block. Libraries raise almost any type for a damaged file.

    `WeightsError` and `OSError` (no permission, no room to unpack an archive) pass unchanged. Only code that reads a
    file belongs in the block: a bug would be reported as damage.
    """
    try:
        yield
    except (WeightsError, OSError):
        raise
    except Exception as error:
        raise WeightsError(f"damaged, or not weights ({get_first_line(error)})") from error
