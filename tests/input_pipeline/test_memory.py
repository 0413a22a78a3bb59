import psutil
import pytest

from input_pipeline import memory
from input_pipeline.memory import measure_free_memory


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "3000000000\n"}, 3_000_000_000),  # in a container
        ("0::/slurm/job\n", {"slurm/memory.max": "3000000000\n", "slurm/job/memory.max": "max\n"}, 3_000_000_000),
        (
            "9:cpu:/\n4:memory:/slurm/job\n",
            {
                "memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
                "memory/slurm/memory.limit_in_bytes": "3000000000",
            },
            3_000_000_000,
        ),
        ("0::/\n", {}, None),
        (None, {}, None),  # not Linux
    ],
)
def test_free_memory_is_limited_by_the_control_groups(monkeypatch, tmp_path, groups, files, limit):
    for name, text in files.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(text)
    if groups:
        (tmp_path / "cgroup").write_text(groups)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_MOUNT", tmp_path / "sys")
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 8_000_000_000}))
    if limit:
        assert 0 < measure_free_memory() < limit
        used = psutil.Process().memory_info().rss
        assert abs(measure_free_memory() - (limit - used)) < 100_000_000
    else:
        assert measure_free_memory() == 8_000_000_000
