import errno
import os
import re
import stat
import subprocess
import sys
import time

import pytest

from input_pipeline.atomic_files import (
    is_unfinished,
    remove_leftovers,
    replace_atomically,
    replace_with_description,
    write_atomically,
)

_WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from input_pipeline.atomic_files import replace_atomically
with replace_atomically(Path(sys.argv[1])) as unfinished:
    unfinished.write_text("half")
    print(flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["a.txt", "previous", "new", "old", "n" * 255])
def test_files_and_folders_of_any_name_are_replaced(tmp_path, name):
    for content in ("before", "after"):
        write_atomically(tmp_path / name, content)
        with replace_atomically(tmp_path / f"f{name[1:]}") as folder:
            folder.mkdir()
            (folder / "a").write_text(content)
    assert (tmp_path / name).read_text() == "after"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((name, f"f{name[1:]}"))


def test_a_file_replaces_no_folder_and_a_folder_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    (tmp_path / "file").touch()
    with pytest.raises(IsADirectoryError, match=re.escape(f"'{tmp_path / 'folder'}'")):
        write_atomically(tmp_path / "folder", "text")
    message = re.escape(f"'{tmp_path / 'file'}'")
    with pytest.raises(NotADirectoryError, match=message), replace_atomically(tmp_path / "file") as unfinished:
        unfinished.mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "folder" / "kept").exists()


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
    with replace_atomically(tmp_path / "folder") as folder:
        (folder / "inner").mkdir(parents=True)
        for name in ("a", "inner/b"):
            (folder / name).write_text("content")
    assert events == ["sync", "rename", "sync", "sync", "rename"]


def test_leftovers_are_removed_as_soon_as_their_process_has_ended(tmp_path):
    command = [sys.executable, "-c", _WRITE_UNTIL_KILLED, tmp_path / "file"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        [leftover] = tmp_path.iterdir()
        os.utime(leftover, (0, 0))
        remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == [leftover]
        process.kill()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_without_a_lock_are_kept_for_a_day(tmp_path):
    """Their file system has no locks, so that a process may still be writing them."""
    leftover = tmp_path / ".name.unfinished"
    leftover.mkdir()
    for age, is_kept in ((3600, True), (90_000, False)):
        os.utime(leftover, (time.time() - age,) * 2)
        remove_leftovers(tmp_path)
        assert leftover.exists() == is_kept


def test_the_only_copy_of_a_folder_is_kept(tmp_path):
    previous = tmp_path / ".name.unfinished" / "old" / "folder"
    previous.mkdir(parents=True)
    os.utime(tmp_path / ".name.unfinished", (0, 0))
    remove_leftovers(tmp_path)
    assert previous.exists()
    (tmp_path / "folder").mkdir()
    os.utime(tmp_path / ".name.unfinished", (0, 0))
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_cannot_be_replaced_keeps_its_content(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "before").touch()
    replace = os.replace

    def fail(source, target):
        if "new" in source.parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        replace(source, target)

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(PermissionError), replace_atomically(tmp_path / "folder") as unfinished:
        unfinished.mkdir()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["before"]


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "file").write_text("before")
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "after"


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)), NotImplementedError()])
def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", fail)
    write_atomically(tmp_path / "file", "content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def write_pair(folder, name, content):
    """Writes a file or a folder, and its description."""
    with replace_with_description(folder / name, folder / f"{name}.json") as (unfinished, description):
        if name == "folder":
            unfinished.mkdir()
            (unfinished / "a").write_text(content)
        else:
            unfinished.write_text(content)
        description.write_text(content)


def read_pair(folder, name):
    """Returns the two contents, each None if it is missing."""
    path = folder / name / "a" if name == "folder" else folder / name
    return tuple(p.read_text() if p.exists() else None for p in (path, folder / f"{name}.json"))


@pytest.mark.parametrize("name", ["file", "folder"])
@pytest.mark.parametrize("before", [None, "before"])
def test_a_file_is_never_next_to_the_description_of_another(tmp_path, monkeypatch, name, before):
    """Observes the names before each step, where a process may be killed, and fails at each step."""
    replace, states = os.replace, []

    def observe(source, target):
        states.append(read_pair(tmp_path, name))
        replace(source, target)

    if before:
        write_pair(tmp_path, name, before)
    monkeypatch.setattr("os.replace", observe)
    write_pair(tmp_path, name, "after")
    assert all(path in (None, description) for path, description in states)
    assert read_pair(tmp_path, name) == ("after", "after")
    for failing in range(len(states) * (before is not None)):
        steps = iter(range(len(states)))

        def fail(source, target, failing=failing, steps=steps):
            if next(steps, None) == failing:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr("os.replace", fail)
        with pytest.raises(KeyboardInterrupt):
            write_pair(tmp_path, name, "failed")
        assert read_pair(tmp_path, name) == ("after", "after")
        assert not any(map(is_unfinished, tmp_path.iterdir()))


@pytest.mark.parametrize("file", ["unnamed", "temporary", "other"])
def test_an_error_of_the_disk_names_the_destination(tmp_path, file):
    other = str(tmp_path / "image.jpg")  # such as one that is read

    def fail(unfinished):
        filename = {"unnamed": None, "temporary": str(unfinished / "a"), "other": other}[file]
        with replace_atomically(unfinished):  # nested, as in `demo`
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), filename)

    with pytest.raises(OSError, match="No space left") as caught, replace_atomically(tmp_path / "file") as unfinished:
        fail(unfinished)
    assert caught.value.filename == (other if file == "other" else str(tmp_path / "file"))


def test_an_error_of_the_temporary_folder_names_the_destination(tmp_path, monkeypatch):
    def refuse(path, *arguments):  # as root, tests can write to every folder
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(PermissionError) as caught, replace_atomically(tmp_path / "file"):
        pass
    assert caught.value.filename == str(tmp_path / "file")


def test_an_error_that_is_not_of_the_disk_stays_as_it_is(tmp_path):
    with pytest.raises(OSError, match="Connection refused") as caught, replace_atomically(tmp_path / "file"):
        raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    assert caught.value.filename is None
