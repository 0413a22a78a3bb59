"""The memory that this process can still allocate, and the CPU cores that are assigned to it, in a Slurm job too."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS = Path("/proc/self/cgroup")  # the control groups of this process, on Linux
_MOUNT = Path("/sys/fs/cgroup")


def count_cpus() -> int:
    """Returns the number of CPU cores that are assigned to this process. Ignores a container's quota of CPU time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_free_memory() -> int:
    """Returns the free memory in bytes, within the limits of the control groups of this process."""
    return max(0, min([psutil.virtual_memory().available, *_measure_groups()]))


def _measure_groups() -> Iterator[int]:
    """Yields the free bytes of each control group of this process and of those above it, cached files included."""
    for line in _GROUPS.read_text().splitlines() if _GROUPS.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root, limit, usage, cached = _MOUNT, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, usage = _MOUNT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (folder / limit).exists():
                text = (folder / limit).read_text().strip()
                if text.isdigit():  # "max": no limit
                    statistics = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
                    yield int(text) - int((folder / usage).read_text()) + int(statistics.get(cached, 0))
