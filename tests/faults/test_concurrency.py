"""Several processes on the same files at once."""

import subprocess
import sys

import pytest

from mobilenet_jax.evaluation.predictions import read_predictions
from tests.helpers.runs import ROOT, assert_equal_runs, end_run, read_records, start_run

_MAIN = "from mobilenet_jax.cli.main import main; main()"


def _start(*arguments):
    command = [sys.executable, "-c", _MAIN, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_one_of_two_runs_on_a_workdir_is_refused_and_the_other_is_not_disturbed(data, tmp_path, tally):
    assert end_run(start_run(data, tmp_path / "alone"))[0] == [0]
    both = start_run(data, tmp_path / "run") + start_run(data, tmp_path / "run")
    statuses, errors = end_run(both)
    assert sorted(statuses) == [0, 1], errors
    [error] = [lines for status, lines in zip(statuses, errors, strict=True) if status]
    tally("two runs on one workdir").count(None if len(error) == 1 and "in use" in error[0] else str(error))
    assert_equal_runs(tmp_path / "run", tmp_path / "alone")


@pytest.mark.slow
def test_a_run_is_evaluated_while_it_is_trained(data, tmp_path, tally):
    [training] = start_run(data, tmp_path / "run", "--config.train.epochs=200")
    assert any(line.startswith("epoch ") for line in training.stdout)
    evaluations = tally("evaluation during training")
    for i in range(5):
        process = _start("evaluate", tmp_path / "run", f"--out={tmp_path / str(i)}", "--resamples=5")
        _, err = process.communicate()
        evaluations.count(err if process.returncode else None)
        if not process.returncode:
            assert len(read_predictions(tmp_path / str(i) / "predictions.csv"))
    training.terminate()
    training.communicate()
    assert training.returncode in (0, 75)
    assert read_records(tmp_path / "run")


@pytest.mark.slow
def test_eight_predictions_at_once_are_those_of_one(trained, data, tmp_path, tally):
    images = next(data.glob("*_Input"))
    running = [_start("predict", trained, images, f"--out={tmp_path / f'{i}.csv'}") for i in range(8)]
    errors = [process.communicate()[1] for process in running]
    expected = (tmp_path / "0.csv").read_bytes()
    for i, process in enumerate(running):
        is_equal = process.returncode == 0 and (tmp_path / f"{i}.csv").read_bytes() == expected
        tally("eight predictions at once").count(None if is_equal else errors[i] or "other values")
