"""The part of a configuration that reports and model cards publish."""

import copy
from typing import Any

from mobilenet_jax.weights.hub import strip_folder

# Those of `training/config.py`: neither package imports the other. A test compares them.
_PATHS = (("data", "dir"), ("data", "split"), ("init", "weights"), ("loss", "soft_labels"))


def strip_folders(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy in which paths are file names: the folders of the training machine are private."""
    published = copy.deepcopy(config)
    for section, key in _PATHS:
        value = published.get(section, {}).get(key)  # runs of earlier versions lack some keys
        if value and not value.startswith("fold:"):
            published[section][key] = strip_folder(value)
    return published
