import json
import sys

import numpy as np
import pytest

from mobilenet_jax.errors import ConfigError
from mobilenet_jax.evaluation.metrics import compute_metrics
from mobilenet_jax.sweeps.cross_validation import EvaluationOptions
from mobilenet_jax.sweeps.runner import Runner
from mobilenet_jax.sweeps.sweep import Sweep, format_table, list_variants, load_sweep, search, write_table
from tests.helpers.predictions import make_predictions, sample_outputs

OPTIONS = EvaluationOptions(resamples=20)
VARIANTS = {"baseline": {}, "better": {"optimizer.learning_rate": 0.1}, "same": {}}


def _write_evaluations(variants, scales):
    """Writes the predictions of models of different quality, in another order of the images for each variant."""
    for variant, scale in zip(variants, scales, strict=True):
        for seed, validation in enumerate(variant.cross_validations):
            labels, probabilities = sample_outputs(300, seed)
            better = 0.7 * np.eye(4)[labels] + 0.3 * probabilities if scale > 1 else probabilities
            table = make_predictions(labels, better).take(np.random.default_rng(int(scale)).permutation(300))
            folder = validation.get_evaluation_folder(OPTIONS)
            folder.mkdir(parents=True)
            (folder / "predictions.csv").write_text(table.to_csv())
            for run in validation.list_runs():
                run.workdir.mkdir()
                metrics = {f"{p}_{m}": 0.5 for p in ("train", "val") for m in ("loss", "accuracy", "balanced_accuracy")}
                record = {"epoch": 1, "step": 3, "seconds": 2.5, **metrics}
                (run.workdir / "metrics.jsonl").write_text(json.dumps(record) + "\n")


def test_the_table_shows_paired_differences_pooled_over_seeds(tmp_path):
    sweep = Sweep("sample", VARIANTS, folds=2, seeds=2)
    variants = list_variants(sweep, tmp_path)
    _write_evaluations(variants, (1, 2, 0))
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in format_table(variants, OPTIONS).splitlines()
    ]
    assert head[0] == "variant"
    assert [row[0] for row in rows] == list(VARIANTS)
    difference = head.index(f"difference from {rows[0][0]}")
    assert rows[0][difference] == ""
    assert rows[1][difference].startswith("+0.")
    assert rows[1][difference].endswith("*")
    assert rows[2][difference] == "+0.000 [+0.000, +0.000]"  # the same predictions, whatever their order
    pooled = [make_predictions(*sample_outputs(300, seed)) for seed in (0, 1)]
    labels = np.concatenate([p.labels for p in pooled])
    expected = compute_metrics(make_predictions(labels, np.concatenate([p.probabilities for p in pooled])))
    assert rows[0][1].startswith(f"{expected['balanced_accuracy']:.3f} [")
    assert rows[0][-1] == "2.5"
    text = write_table(variants, OPTIONS, tmp_path)
    assert text.startswith("300 images, 2 folds, 2 seeds; last epoch; evaluation validation\n")
    assert (tmp_path / "sweep.md").read_text() == text


def test_overrides_of_the_command_replace_common_ones_only(tmp_path):
    sweep = Sweep("sample", {"a": {"train.epochs": 2}}, common={"train.epochs": 7, "data.image_size": 48}, folds=2)
    [variant] = list_variants(sweep, tmp_path, ["--config.data.image_size=32", "--config.model.alpha=0.5"])
    config = variant.cross_validations[0].list_runs()[1].load_config()
    assert (config.train.epochs, config.data.image_size, config.model.alpha) == (2, 32, 0.5)
    assert config.data.split == "fold:2/2"
    for override in ("train.epochs=3", "seed=1", "data.split=lesion"):
        with pytest.raises(ConfigError, match="leave it out"):
            list_variants(sweep, tmp_path, [f"--config.{override}"])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def get_sweep(): return 3", "get_sweep() returns int, expected Sweep"),
        ("x = 3", "it does not define get_sweep()"),
        ("x = 1 / 0", "ZeroDivisionError: division by zero"),
        ("def get_sweep(): return Sweep('sample')", "a sweep needs either variants or a search"),
        ("def get_sweep(): return Sweep('sample', {'../x': {}})", "'../x' is not the name of a variant: use letters"),
        (
            "def get_sweep(): return Sweep('sample', {'a': {}}, folds=1)",
            "folds is 1, but must be an integer of at least 2",
        ),
        ("def get_sweep(): return Sweep('sample', {'a': {}}, seeds=2.0)", "seeds is 2.0, but must be an integer"),
        ("def get_sweep(): return Sweep('sample', {'a': {'seed': 3}})", "config.seed is set for each repetition"),
    ],
)
def test_sweeps_that_cannot_run_are_refused(tmp_path, code, message):
    file = tmp_path / "sweep.py"
    file.write_text(f"from mobilenet_jax.sweeps.sweep import Sweep\n{code}\n")
    with pytest.raises(ConfigError) as raised:
        load_sweep(file)
    assert message in str(raised.value)
    with pytest.raises(ConfigError, match="no such file"):
        load_sweep(tmp_path / "missing.py")


def test_a_dry_run_prints_the_commands(tmp_path, run):
    file = tmp_path / "sweep.py"
    file.write_text(
        "from mobilenet_jax.sweeps.sweep import Sweep\n"
        "def get_sweep(): return Sweep('sample', {'a': {}, 'b': {'train.epochs': 3}}, folds=2)\n"
    )
    status, out, _ = run("sweep", file, "--out", tmp_path / "out", "--dry-run", "--command=nice {command}")
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"nice {sys.executable} -P -c ") for line in lines)
    assert lines[3].endswith("--config.train.epochs=3 --config.seed=0 --config.data.split=fold:2/2")
    assert not (tmp_path / "out").exists()
    pinned = ["--jobs=2", "--command=taskset -c {slot} {command}"]
    assert "leave {slot} out of --command" in run("sweep", file, "--out", tmp_path / "out", "--dry-run", *pinned)[2]


def test_a_search_whose_function_fails_is_refused_with_its_error(tmp_path):
    pytest.importorskip("optuna", reason="a search needs Optuna")
    for function, message in (
        (lambda trial: {"model.alpha": trial.suggest_flaot("alpha", 0, 1)}, "cannot sample trial 0: AttributeError: "),
        (lambda trial: 0.5, "cannot sample trial 0: it returned 0.5, not a dictionary of overrides"),
        (lambda trial: {"data.split": "lesion"}, "config.data.split is set for each fold"),
        (lambda trial: {"seed": 3}, "config.seed is set for each repetition"),
    ):
        with pytest.raises(ConfigError, match=message):
            search(Sweep("sample", search=function), tmp_path, (), Runner(1, "{command}"), OPTIONS)


def test_a_search_refuses_overrides_of_its_own_settings(tmp_path):
    pytest.importorskip("optuna", reason="a search needs Optuna")
    sweep = Sweep("sample", search=lambda trial: {"model.dropout": trial.suggest_float("dropout", 0, 0.5)})
    for key in ("seed", "model.dropout"):
        with pytest.raises(ConfigError, match=rf"config\.{key} is set by the variant trial000-"):
            search(sweep, tmp_path, (f"--config.{key}=0",), Runner(1, "{command}"), OPTIONS)


def test_a_search_continues_with_the_trials_it_would_have_made(tmp_path, monkeypatch):
    optuna = pytest.importorskip("optuna", reason="a search needs Optuna")
    calls, directions, create_study = [], [], optuna.create_study
    monkeypatch.setattr(optuna, "create_study", lambda **o: directions.append(o["direction"]) or create_study(**o))

    def evaluate(variants, out, runner, options):
        calls.extend(v.cross_validations[0].overrides for v in variants)
        _write_evaluations(variants, [2 if variants[0].name.startswith("trial002") else 1])

    monkeypatch.setattr("mobilenet_jax.sweeps.sweep.run_variants", evaluate)
    trials = []
    for name in ("first", "again"):
        sweep = Sweep(
            "sample",
            search=lambda trial: {"optimizer.learning_rate": trial.suggest_float("rate", 1e-3, 1.0, log=True)},
            folds=2,
            trials=4,
        )
        variants = search(sweep, tmp_path / name, (), Runner(1, "{command}"), OPTIONS)
        trials.append([v.name for v in variants])
    assert calls[:4] == calls[4:]
    assert trials[0] == trials[1]
    assert [name[:8] for name in sorted(trials[0])] == ["trial000", "trial001", "trial002", "trial003"]
    assert trials[0][0].startswith("trial002"), "the best trial is the first"
    assert directions == ["maximize", "maximize"]
    assert len({name[8:] for name in trials[0]}) == 4, "each is named after its values"
