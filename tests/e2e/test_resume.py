"""Runs that are stopped, killed, damaged or begun twice, and go on."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from mobilenet_jax.errors import WorkdirError
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.training.workdir import Workdir
from mobilenet_jax.weights.load import read_weights
from tests.helpers.datasets import write_isic
from tests.helpers.runs import ROOT, make_command, make_config, read_records, with_devices

EPOCHS = 6  # of 3 steps each, in `_command`


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_isic(tmp_path_factory.mktemp("data") / "isic")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """A run that nothing disturbed: its workdir, and what it printed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, subprocess.run(make_command(data, workdir), cwd=ROOT, check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def whole(undisturbed):
    """Its workdir."""
    return undisturbed[0]


def _start(data, workdir, *more):
    return subprocess.Popen(
        make_command(data, workdir, *more), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _after_epoch(process, number):
    """Reads until a run has finished an epoch."""
    for line in process.stdout:
        if re.match(rf"epoch +{number}/", line):
            return
    raise AssertionError(process.stderr.read())


def _assert_equal_runs(found, expected):
    assert read_records(found) == read_records(expected)
    assert _parameters(found) == _parameters(expected)


def _parameters(workdir):
    tensors = read_weights(workdir, checkpoint="latest").tensors
    return {name: value.tobytes() for name, value in tensors.items()}


def test_output_is_plain_lines_when_no_terminal_is_there(undisturbed):
    _, said = undisturbed
    assert "\r" not in said.stdout + said.stderr
    assert said.stderr == ""
    assert said.stdout.splitlines()[-4].startswith("epoch 6/6   training loss ")


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_asked_to_stop_and_later_killed_a_run_goes_on_to_the_same_end(data, whole, tmp_path, number):
    workdir = tmp_path / "run"
    process = _start(data, workdir)
    _after_epoch(process, 2)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 75
    assert err.count("\n") == 1
    assert err.startswith("stopped at step ")
    step = int(err.split()[3].rstrip(","))
    assert err == f"stopped at step {step}, saved: the same command goes on from there\n"
    assert (workdir / "checkpoints" / str(step)).exists()

    process = _start(data, workdir)
    assert any(f"going on after epoch {step // 3}, step {step}" in line for line in process.stdout)
    while not (workdir / "checkpoints" / "12").exists():  # which it does as soon as it is whole
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    again = subprocess.run(make_command(data, workdir), cwd=ROOT, check=True, capture_output=True, text=True)
    assert "going on after epoch" in again.stdout
    _assert_equal_runs(workdir, whole)


def test_stopped_within_an_epoch_its_figures_are_those_of_the_whole_epoch(data, whole, tmp_path, monkeypatch):
    """The figures are computed from all of its examples."""
    from mobilenet_jax.errors import Interrupted
    from mobilenet_jax.training.preemption import StopRequest

    config = make_config(data, train__epochs=2)
    stops = 0
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "asked_at", lambda self, step: step in (1, 5))
        for _ in range(10):
            try:
                train_and_evaluate(config, tmp_path / "run")
                break
            except Interrupted:
                stops += 1
    assert stops == 2
    assert read_records(tmp_path / "run") == read_records(whole)[:2]


def test_a_second_run_on_a_workdir_is_refused(data, tmp_path):
    config, path = make_config(data), tmp_path / "run"
    with (
        Workdir(path, config.to_dict(), 0),
        pytest.raises(WorkdirError, match=f"{path} is in use by another run: wait for it, or choose another --workdir"),
    ):
        train_and_evaluate(config, path)


def _truncate(folder):
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def _no_state(folder):
    shutil.rmtree(folder / "state")


def _empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def _no_history(folder):
    shutil.rmtree(folder / "history")


def _garbage(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\0garbage")


@pytest.mark.parametrize("damage", [_truncate, _no_state, _empty, _no_history, _garbage])
def test_a_damaged_newest_checkpoint_is_left_out_with_a_warning(data, whole, tmp_path, damage, capsys):
    workdir = shutil.copytree(whole, tmp_path / "run")
    damage(workdir / "checkpoints" / "18")
    config = make_config(data, train__epochs=EPOCHS)
    config.init.weights = ""
    train_and_evaluate(config, workdir)
    said = capsys.readouterr()
    assert "warning: checkpoint 18 is damaged (" in said.err
    assert "going on after epoch 5, step 15" in said.out
    _assert_equal_runs(workdir, whole)


def test_no_checkpoint_that_can_be_read_is_told_in_a_line(data, whole, tmp_path):
    workdir = shutil.copytree(whole, tmp_path / "run")
    for folder in (workdir / "checkpoints").iterdir():
        _no_state(folder)
    config = make_config(data, train__epochs=EPOCHS)
    config.init.weights = ""
    with pytest.raises(WorkdirError, match="no checkpoint in .* can be read: remove the folder to start anew"):
        train_and_evaluate(config, workdir)


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments_it_ends_as_if_undisturbed(data, whole, tmp_path):
    """In a step, in a save, in an evaluation, in starting: SIGKILL after a random time, and again until it is done."""
    rng = np.random.default_rng(0)
    for run in range(20):
        workdir, kills = tmp_path / str(run), 0
        while True:
            process = _start(data, workdir)
            time.sleep(rng.uniform(0, 1) if kills % 2 else 0)
            try:
                _after_epoch(process, int(rng.integers(1, EPOCHS)) if kills < 3 else EPOCHS + 1)
            except AssertionError:  # it came to its end
                break
            time.sleep(rng.uniform(0, 0.15))
            process.kill()
            process.communicate()
            kills += 1
        process.communicate()
        assert process.returncode == 0
        assert kills >= 1
        _assert_equal_runs(workdir, whole)


@pytest.mark.slow
def test_a_run_of_four_devices_goes_on_with_one(data, tmp_path):
    workdir = tmp_path / "run"
    four = with_devices(4)
    command = make_command(data, workdir, "--config.train.epochs=2")
    result = subprocess.run(command, cwd=ROOT, check=True, env=four, capture_output=True, text=True)
    assert "on 4 cpu device(s)" in result.stdout
    result = subprocess.run(
        make_command(data, workdir, "--config.train.epochs=3"), cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "going on after epoch 2, step 6" in result.stdout
    assert [r["step"] for r in read_records(workdir)] == [3, 6, 9]


def test_a_batch_that_the_devices_cannot_share_is_refused_with_the_nearest_that_they_can(data, tmp_path):
    four = with_devices(4)
    command = make_command(data, tmp_path / "run", "--config.train.batch_size=10")
    result = subprocess.run(command, cwd=ROOT, env=four, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        "error: config.train.batch_size is 10, no multiple of 4 devices: the nearest are 8 or 12\n"
    )


def test_the_events_of_tensorboard_are_the_records(whole):
    from tensorflow.compat.v1.train import summary_iterator

    [file] = (whole / "tensorboard").iterdir()
    found = {(v.tag, e.step): v.simple_value for e in summary_iterator(str(file)) for v in e.summary.value}
    for record in read_records(whole):
        for tag, name in (("loss/val", "val_loss"), ("accuracy/train", "train_accuracy"), ("run/step", "step")):
            assert found[tag, record["epoch"]] == pytest.approx(record[name], rel=1e-6)
    assert json.loads((whole / "summary.json").read_text())["stopped_early"] is False


@pytest.mark.slow
def test_a_profile_is_left_when_asked_for(data, tmp_path):
    command = make_command(
        data, tmp_path / "run", "--profile", "--config.train.batch_size=1", "--config.train.epochs=1"
    )
    result = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert f"a trace of 10 steps is in {tmp_path / 'run' / 'profile'}" in result.stdout
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_one_of_two_processes_dies_and_the_other_ends_with_an_error(data, tmp_path):
    port = 20_000 + os.getpid() % 20_000
    command = make_command(data, tmp_path / "run", "--config.train.epochs=1000", f"--coordinator=localhost:{port}")
    processes = [
        subprocess.Popen(
            [*command, "--num_processes=2", f"--process_id={i}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    _after_epoch(processes[0], 1)
    processes[1].kill()
    start = time.monotonic()
    processes[0].communicate(timeout=90)
    assert time.monotonic() - start < 60
    assert processes[0].returncode != 0
    processes[1].communicate()


@pytest.mark.slow
def test_two_processes_of_two_devices_do_what_one_device_does(data, tmp_path):
    """One step, of all images: from random weights a difference of rounding grows a hundredfold with every next one."""
    config = make_config(data, train__epochs=1, train__batch_size=28)
    train_and_evaluate(config, tmp_path / "alone")
    port = 20_000 + (os.getpid() + 1) % 20_000
    two = with_devices(2)
    changes = ["--config.train.epochs=1", "--config.train.batch_size=28", f"--coordinator=localhost:{port}"]
    processes = [
        subprocess.Popen(
            [*make_command(data, tmp_path / "run", *changes), "--num_processes=2", f"--process_id={i}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=two,
        )
        for i in range(2)
    ]
    (out, err), (silence, _) = (process.communicate(timeout=300) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], err
    assert "on 4 cpu device(s)" in out
    assert all(line.startswith("[Gloo]") for line in silence.splitlines()), "what all would say, the first one says"
    [found], [expected] = read_records(tmp_path / "run"), read_records(tmp_path / "alone")
    assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
    assert found["val_accuracy"] * 14 == pytest.approx(round(found["val_accuracy"] * 14))
