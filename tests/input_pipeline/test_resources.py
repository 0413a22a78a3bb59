import os

import pytest

from input_pipeline import resources
from input_pipeline.resources import count_cpus, measure_free_memory

GB = 1_000_000_000
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


def _write_group(folder, names, limit, usage, cached):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names[:2], (limit, usage), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"cache 5\n{names[2]} {cached}\n")


@pytest.mark.parametrize(
    ("groups", "folders", "free"),
    [
        ("0::/\n", {"": (V2, 3 * GB, 2 * GB, GB // 2)}, 3 * GB // 2),  # in a container
        ("0::/slurm/job\n", {"slurm": (V2, 3 * GB, GB, 0), "slurm/job": (V2, "max", GB, 0)}, 2 * GB),
        (
            "9:cpu:/\n4:memory:/slurm/job\n",
            {"memory": (V1, 2**63 - 4096, GB, 0), "memory/slurm": (V1, 3 * GB, GB, GB)},
            3 * GB,
        ),
        ("0::/\n", {"": (V2, GB, 2 * GB, 0)}, 0),
        ("0::/\n", {}, 8 * GB),
        (None, {}, 8 * GB),  # not Linux
    ],
)
def test_free_memory_is_limited_by_the_control_groups(monkeypatch, tmp_path, groups, folders, free):
    for name, values in folders.items():
        _write_group(tmp_path / "sys" / name, *values)
    if groups:
        (tmp_path / "cgroup").write_text(groups)
    monkeypatch.setattr(resources, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "_MOUNT", tmp_path / "sys")
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 8 * GB}))
    assert measure_free_memory() == free


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system assigns no cores")
def test_cores_of_other_jobs_are_not_counted():
    cores = os.sched_getaffinity(0)
    assert count_cpus() == len(cores)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert count_cpus() == 1
    finally:
        os.sched_setaffinity(0, cores)
