import json
import sys

import pytest

from mobilenet_jax.errors import ConfigError
from mobilenet_jax.sweeps.cross_validation import CrossValidation, EvaluationOptions, run_cross_validations
from mobilenet_jax.sweeps.runner import Runner
from tests.helpers.runs import OVERRIDES, ROOT

OPTIONS = EvaluationOptions(views=2, correction="prior", resamples=7)


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """Returns a runner of fake commands, which write to `tmp_path`."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Runner(2, f"{sys.executable} -m tests.helpers.fake_runs {tmp_path} {{slot}} {{command}}")


def _list_calls(folder):
    lines = (folder / "calls").read_text().splitlines()
    (folder / "calls").unlink()
    return sorted(line.split(" ", 3)[3] for line in lines)


def test_the_folds_are_trained_then_evaluated_together(runner, tmp_path):
    validation = CrossValidation(tmp_path / "out", "sample", ("--config.train.epochs=3",), 2)
    run_cross_validations([validation], runner, OPTIONS)
    evaluation, *runs = _list_calls(tmp_path)
    out = tmp_path / "out"
    assert evaluation == (
        f"evaluate {out / 'fold1'} {out / 'fold2'} --folds --checkpoint=latest "
        f"--out={out / 'evaluation' / 'validation-tta2-prior'} --tta=2 --resamples=7 --correct=prior"
    )
    for fold, line in enumerate(runs, 1):
        assert line == (
            f"train --config=sample --workdir={out / f'fold{fold}'} --config.train.epochs=3 "
            f"--config.data.split=fold:{fold}/2"
        )


def test_what_is_finished_is_not_repeated(runner, tmp_path):
    validation = CrossValidation(tmp_path / "out", "sample", (), 2)
    run_cross_validations([validation], runner, OPTIONS)
    _list_calls(tmp_path)
    (tmp_path / "out" / "fold2" / "summary.json").unlink()  # the run was stopped
    run_cross_validations([validation], runner, OPTIONS)
    assert [line.split()[0] for line in _list_calls(tmp_path)] == ["evaluate", "train"]
    changed = validation._replace(overrides=("--config.train.epochs=9",))
    assert [run.is_finished() for run in changed.list_runs()] == [False, False]
    config = json.loads((tmp_path / "out" / "fold1" / "config.json").read_text())
    config["train"]["epochs"] = 5  # as a run records what 0 stands for
    (tmp_path / "out" / "fold1" / "config.json").write_text(json.dumps(config))
    from_data = validation._replace(overrides=("--config.train.epochs=0",))
    assert from_data.list_runs()[0].is_finished()


def test_a_configuration_is_validated_before_the_first_run(runner, tmp_path):
    valid, invalid = (CrossValidation(tmp_path / f"{a}", "sample", (f"--config.model.alpha={a}",), 2) for a in (1, 0.3))
    with pytest.raises(ConfigError, match=r"config\.model\.alpha is 0\.3"):
        run_cross_validations([valid, invalid], runner, OPTIONS)
    assert not (tmp_path / "calls").exists()


@pytest.mark.slow
def test_a_cross_validation_on_images(data, tmp_path, run):
    """Trains two folds as processes, twice: the second time, everything is finished."""
    overrides = [
        f"--config.{key}={value}" for key, value in {**OVERRIDES, "data.dir": data, "init.weights": ""}.items()
    ]
    command = ["cross-validate", "--config=isic2018", f"--out={tmp_path / 'cv'}", "--folds=2", "--resamples=5"]
    status, out, err = run(*command, *overrides)
    assert (status, err) == (0, "")
    assert "2 of 2: " in out
    assert "balanced accuracy" in out
    assert out.endswith(f"{tmp_path / 'cv' / 'evaluation' / 'validation' / 'report.html'}\n")
    status, again, _ = run(*command, *overrides)
    assert status == 0
    assert again.startswith("2 of 2 runs are finished\n")
    assert again.splitlines()[1:] == out.splitlines()[-len(again.splitlines()) + 1 :]
