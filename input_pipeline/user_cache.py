"""The user's cache folder: the sample, decoded images, results of validation, weights, npm packages, compiled steps."""

import os
import sys
from pathlib import Path

import pooch

from input_pipeline.errors import UserError


def get_cache_folder(name: str) -> Path:
    """Returns a folder in the user's cache, which need not exist."""
    return Path(pooch.os_cache("mobilenet-jax")) / name


def create_cache_folder(name: str) -> Path:
    """Returns a folder in the user's cache, and creates it if it does not exist.

    Raises:
        UserError: it cannot be created or written.
    """
    folder = get_cache_folder(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _describe(folder, error.strerror) from error
    if not os.access(folder, os.W_OK):
        raise _describe(folder, "permission denied")
    return folder


def _describe(folder: Path, reason: str | None) -> UserError:
    hint = "set XDG_CACHE_HOME to a writable folder" if sys.platform == "linux" else "make it writable"
    return UserError(f"cannot write the cache folder {folder} ({reason}): {hint}")
