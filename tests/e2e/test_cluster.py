"""Two processes end together, with one line each, whatever ends one of them."""

import shutil
import signal
import subprocess
import time

import pytest

from input_pipeline.sources.isic import INPUT
from tests.helpers.runs import ROOT, get_free_port, make_command, read_records

LIMITED = """
import resource, sys
from mobilenet_jax.cli.main import main
from mobilenet_jax.training.checkpoints import Checkpoints

save = Checkpoints.save
def save_to_full_disk(*args):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    save(*args)

Checkpoints.save = save_to_full_disk
main(["train", *sys.argv[1:]])
"""


def _start(first, second):
    cluster = [f"--coordinator=localhost:{get_free_port()}", "--num_processes=2"]
    return [
        subprocess.Popen(
            [*command, *cluster, f"--process_id={i}"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for i, command in enumerate((first, second))
    ]  # fmt: skip


def _end(processes):
    """Waits for the processes, and returns their statuses and errors."""
    errors = [process.communicate(timeout=120)[1] for process in processes]
    return [process.returncode for process in processes], errors


def test_a_workdir_of_others_ends_both_processes(data, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    command = make_command(data, tmp_path)
    statuses, (first, second) = _end(_start(command, command))
    assert statuses == [1, 1]
    assert first == f"error: {tmp_path} exists and does not hold a run: choose another --workdir\n"
    assert second == first.replace("error: ", "error: process 0 stopped: ")


@pytest.mark.slow
def test_an_image_that_is_damaged_for_one_process_ends_both(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "isic")
    next((copy / INPUT.format("Training")).iterdir()).write_bytes(b"")
    statuses, (first, second) = _end(_start(make_command(data, tmp_path / "run"), make_command(copy, tmp_path / "run")))
    assert statuses == [1, 1]
    assert second.count("\n") == first.count("\n") == 1
    assert " is empty: replace it, or remove it" in second
    assert second.endswith("; data.skip_damaged=True leaves out damaged images\n")
    assert first == second.replace("error: ", "error: process 1 stopped: ")


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_full_disk_ends_both_processes_within_a_minute(data, tmp_path, process):
    command = make_command(data, tmp_path / "run")
    commands = [command, command]
    commands[process] = [command[0], "-c", LIMITED, *command[2:]]
    processes = _start(*commands)
    if process:
        assert _end(processes) == ([0, 0], ["", ""]), "a process that writes nothing needs no disk"
        return
    assert any(line.startswith("first step") for line in processes[0].stdout)
    start = time.monotonic()
    statuses, errors = _end(processes)
    assert time.monotonic() - start < 60
    assert statuses == [1, 1]
    assert [error.count("\n") for error in errors] == [1, 1], errors
    assert "error: cannot write a checkpoint" in errors[0]
    assert "error: process 0 stopped: cannot write a checkpoint" in errors[1]


@pytest.mark.slow
def test_one_step_per_epoch_does_not_hide_a_stop_request(data, tmp_path):
    command = make_command(data, tmp_path / "run", "--config.train.batch_size=28", "--config.train.epochs=1000")
    for _ in range(2):  # a new run, and one that continues from another step
        processes = _start(command, command)
        assert any(line.startswith("epoch ") for line in processes[0].stdout)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        statuses, errors = _end(processes)
        assert time.monotonic() - start < 30
        assert statuses == [75, 75], errors
        assert all(error.startswith("stopped at step ") for error in errors)


@pytest.mark.slow
def test_processes_agree_on_the_checkpoint_that_they_continue_from(data, tmp_path):
    command = make_command(data, tmp_path / "whole", "--config.train.epochs=3")
    assert _end(_start(command, command))[0] == [0, 0]
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    largest = max((tmp_path / "run" / "checkpoints" / "9").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    command = make_command(data, tmp_path / "run", "--config.train.epochs=4")
    processes = _start(command, command)
    output = processes[0].stdout.read()
    statuses, errors = _end(processes)
    assert statuses == [0, 0], errors
    assert "resuming after epoch 2, step 6" in output
    assert errors[0].startswith("warning: checkpoint 9 is damaged (")
    assert errors[1] == ""
    assert [record["step"] for record in read_records(tmp_path / "run")] == [3, 6, 9, 12]
    assert read_records(tmp_path / "run")[:3] == read_records(tmp_path / "whole")
