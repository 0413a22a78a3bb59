"""The part of a configuration that reports and model cards publish."""

import copy
from pathlib import Path
from typing import Any


def strip_folders(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy in which paths are file names: the folders of the training machine are private."""
    published = copy.deepcopy(config)
    for section, key in (("data", "dir"), ("data", "split"), ("init", "weights")):
        value = published[section][key]
        if value and not value.startswith("fold:"):
            published[section][key] = Path(value).name
    return published
