"""The memory that this process can still allocate, within the limits of a container or a Slurm job."""

from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS = Path("/proc/self/cgroup")  # the control groups of this process, on Linux
_MOUNT = Path("/sys/fs/cgroup")


def measure_free_memory() -> int:
    """Returns bytes: the memory that is free, but at most the limits of the control groups less what is in use here."""
    available, used = psutil.virtual_memory().available, psutil.Process().memory_info().rss
    return max(0, min([available, *(limit - used for limit in _read_limits())]))


def _read_limits() -> Iterator[int]:
    """Yields the limits of the control groups of this process and of those above them, in bytes."""
    for line in _GROUPS.read_text().splitlines() if _GROUPS.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root, name = _MOUNT, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _MOUNT / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (folder / name).exists():
                text = (folder / name).read_text().strip()
                if text.isdigit():  # "max": no limit
                    yield int(text)
