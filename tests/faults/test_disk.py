"""Disks that fill up, are read-only, or return other bytes; files that disappear or change under a running command."""

import contextlib
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from mobilenet_jax.training.loop import train_and_evaluate
from tests.helpers.runs import assert_equal_runs, end_run, make_config, start_run

_MAX_LINES = 5  # of error output


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Returns the workdir of an uninterrupted run of three epochs; it must not be changed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train_and_evaluate(make_config(data, train__epochs=3), workdir)
    return workdir


@pytest.mark.parametrize("flips", [3, pytest.param(97, marks=pytest.mark.slow)])
def test_flipped_bits_of_a_checkpoint_do_not_reach_the_model(flips, data, whole, tmp_path, tally):
    """The latest checkpoint has another bit; the run continues after the one before, or the bit does not matter."""
    rng, changed = np.random.default_rng(flips), tally("one bit of a checkpoint")
    for i in range(flips):
        workdir = shutil.copytree(whole, tmp_path / "run")
        files = sorted(
            path for path in (workdir / "checkpoints" / "9").rglob("*") if path.stat().st_size and path.is_file()
        )
        sizes = np.array([path.stat().st_size for path in files])
        file = files[rng.choice(len(files), p=sizes / sizes.sum() / 2 + 0.5 / len(files))]
        content = bytearray(file.read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        file.write_bytes(content)
        with _describe_errors() as problem:
            train_and_evaluate(make_config(data, train__epochs=3), workdir)
            assert_equal_runs(workdir, whole)
        changed.count(f"{i}, {file.relative_to(workdir)}: {problem[0]}" if problem else None)
        shutil.rmtree(workdir)


@contextlib.contextmanager
def _describe_errors():
    problem = []
    try:
        yield problem
    except Exception as error:  # every one counts
        problem.append(f"{type(error).__name__}: {str(error)[:200]}")


@contextlib.contextmanager
def _mount(folder, megabytes):
    """Mounts a file system in memory."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a file system needs the rights of root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_runs_on_a_disk_that_fills_up_end_in_few_lines_and_continue(data, tmp_path, tally):
    """Another program takes the space at a random moment."""
    assert end_run(start_run(data, tmp_path / "whole"))[0] == [0]
    rng, full, disk = np.random.default_rng(0), tally("full disk"), tmp_path / "disk"
    with _mount(disk, 100):
        while full.tried < 20:
            shutil.rmtree(disk / "run", ignore_errors=True)
            running = start_run(data, disk / "run")
            time.sleep(rng.uniform(4, 12))
            with contextlib.suppress(OSError), (disk / "other").open("wb") as other:
                other.write(bytes(101 << 20))
            statuses, [lines] = end_run(running, timeout=300)
            if statuses != [0]:
                full.count(None if statuses == [1] and len(lines) <= _MAX_LINES else f"{statuses}: {lines}")
            (disk / "other").unlink()
            statuses, errors = end_run(start_run(data, disk / "run"))
            assert statuses == [0], errors
            assert_equal_runs(disk / "run", tmp_path / "whole")


@pytest.mark.slow
def test_runs_on_a_disk_that_becomes_read_only_end_in_few_lines_and_continue(data, tmp_path, tally):
    assert end_run(start_run(data, tmp_path / "whole"))[0] == [0]
    rng, broken, disk = np.random.default_rng(0), tally("read-only disk"), tmp_path / "disk"
    with _mount(disk, 200):
        for _ in range(12):
            shutil.rmtree(disk / "run", ignore_errors=True)
            [process] = start_run(data, disk / "run")
            time.sleep(rng.uniform(4, 12))
            process.send_signal(signal.SIGSTOP)  # remounting fails while a file is open for writing
            remounted = subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True).returncode == 0
            process.send_signal(signal.SIGCONT)
            statuses, [lines] = end_run([process], timeout=300)
            if remounted and statuses != [0]:
                broken.count(None if statuses == [1] and len(lines) <= _MAX_LINES else f"{statuses}: {lines}")
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            statuses, errors = end_run(start_run(data, disk / "run"))
            assert statuses == [0], errors
            assert_equal_runs(disk / "run", tmp_path / "whole")


@pytest.mark.slow
def test_files_that_disappear_under_a_run_end_it_in_few_lines_or_do_not_matter(data, tmp_path, tally):
    """Deletes a random file of the workdir, or a random image, in a run that decodes the images in every epoch."""
    rng, deleted = np.random.default_rng(0), tally("file deleted during a run")
    for i in range(20):
        folder, workdir = shutil.copytree(data, tmp_path / f"data{i}"), tmp_path / f"run{i}"
        [process] = start_run(folder, workdir, "--config.train.epochs=20")
        assert any(line.startswith("epoch ") for line in process.stdout)
        files = sorted(path for path in (workdir if i % 2 else folder).rglob("*") if path.is_file())
        files[rng.integers(len(files))].unlink(missing_ok=True)
        statuses, [lines] = end_run([process], timeout=300)
        deleted.count(None if statuses[0] in (0, 1) and len(lines) <= _MAX_LINES else f"{statuses}: {lines}")


@pytest.mark.slow
def test_images_that_change_under_a_run_end_it_in_few_lines_or_do_not_matter(data, tmp_path, tally):
    rng, changed = np.random.default_rng(0), tally("image changed during a run")
    for i in range(10):
        folder = shutil.copytree(data, tmp_path / f"data{i}")
        [process] = start_run(folder, tmp_path / f"run{i}", "--config.train.epochs=20")
        assert any(line.startswith("epoch ") for line in process.stdout)
        for path in rng.permutation(sorted(folder.glob("*_Input/*.jpg")))[:5]:
            path.write_bytes(rng.bytes(int(rng.integers(2000))))
        statuses, [lines] = end_run([process], timeout=300)
        changed.count(None if statuses[0] in (0, 1) and len(lines) <= _MAX_LINES else f"{statuses}: {lines}")
