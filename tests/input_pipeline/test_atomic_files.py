import os
import stat

import pytest

from input_pipeline.atomic_files import replace_atomically, write_atomically


@pytest.mark.parametrize("name", ["a.txt", "previous", "new", "old", "n" * 255])
def test_files_and_folders_of_any_name_are_replaced(tmp_path, name):
    for content in ("before", "after"):
        write_atomically(tmp_path / name, content)
        with replace_atomically(tmp_path / f"f{name[1:]}") as folder:
            folder.mkdir()
            (folder / "a").write_text(content)
    assert (tmp_path / name).read_text() == "after"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((name, f"f{name[1:]}"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_device_or_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it exists and is not a regular file"):
        write_atomically(tmp_path / "pipe", "text")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda file: events.append("sync") or fsync(file))
    monkeypatch.setattr("os.replace", lambda *paths: events.append("rename") or replace(*paths))
    write_atomically(tmp_path / "file", "content")
    assert events == ["sync", "rename"]
