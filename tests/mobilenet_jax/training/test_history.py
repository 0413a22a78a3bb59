import json
from dataclasses import replace

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.mobilenet import get_config
from mobilenet_jax.errors import Interrupted
from mobilenet_jax.training.history import History, compute_score, find_best, find_early_stop
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.training.step import BatchResult
from tests.helpers.runs import make_config, read_records, request_stop


def _make_settings(**changes):
    settings = get_config().early_stopping
    return ConfigDict({**settings.to_dict(), "enabled": True, **changes})


def _make_result(seed, n=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 7, n).astype(np.int32)
    return BatchResult(rng.random(n, np.float32), rng.integers(0, 7, n).astype(np.int32), labels, np.ones(n, bool))


def test_a_history_within_an_epoch_survives_json():
    history = History(["a", "b"], ["MEL", "NV"], (0.0, 1.0), [{"epoch": 1, "val_loss": 0.1}])
    for seed in range(3):
        history.add_step(_make_result(seed), 0.5 + seed)
    history.seconds = 7.5
    restored = History.from_json(json.loads(json.dumps(history.to_json())))
    assert (restored.epoch, restored.steps_done, restored.seconds) == (1, 3, 7.5)
    assert restored.compute_training_metrics() == history.compute_training_metrics()
    assert restored.to_json() == history.to_json()
    first_version = history.to_json()
    del first_version["partial"]["seconds"]
    assert History.from_json(first_version).seconds == 0


def test_the_json_of_a_history_does_not_change_with_it():
    history = History(["a"], ["MEL", "NV"], (0.0, 1.0))
    history.add_step(_make_result(0), 0.5)
    stored = history.to_json()
    before = json.dumps(stored)
    history.add_step(_make_result(1), 0.5)
    history.finish_epoch({"epoch": 1})
    assert json.dumps(stored) == before


def test_a_history_between_epochs_survives_json():
    history = History(["a", "b"], ["MEL", "NV"], (-1.0, 1.0))
    assert History.from_json(json.loads(json.dumps(history.to_json()))) == history


def test_the_best_record_is_that_of_the_monitor_and_the_latest_of_equals():
    records = [
        {"epoch": 1, "val_loss": 0.5, "val_balanced_accuracy": 0.7},
        {"epoch": 2, "val_loss": 0.4, "val_balanced_accuracy": 0.6},
        {"epoch": 3, "val_loss": 0.4, "val_balanced_accuracy": 0.7},
    ]
    disabled = _make_settings(enabled=False)
    assert find_best(records, disabled)["epoch"] == 3
    assert find_best(records[:2], disabled)["epoch"] == 1
    assert find_best(records, _make_settings(monitor="val_loss"))["epoch"] == 3
    assert find_best(records, _make_settings(monitor="val_loss", mode="max"))["epoch"] == 1
    assert find_best(records, _make_settings(monitor="val_loss", mode="max", start_from_epoch=1))["epoch"] == 3
    assert find_best(records[:2], _make_settings(monitor="val_loss", start_from_epoch=5))["epoch"] == 2


@pytest.mark.parametrize(("mode", "sign"), [("auto", -1), ("min", -1), ("max", 1)])
def test_scores_are_higher_for_better_epochs(mode, sign):
    assert compute_score({"epoch": 1, "val_loss": 0.25}, _make_settings(monitor="val_loss", mode=mode)) == sign * 0.25


def test_early_stopping_is_off_unless_enabled():
    records = [{"val_loss": loss} for loss in (1.0, 2.0, 3.0, 4.0)]
    assert find_early_stop(records, _make_settings(enabled=False, patience=1)) is None
    assert find_early_stop(records, _make_settings(patience=1)) == 2


def test_the_seconds_of_an_interrupted_epoch_include_those_before_it(data, tmp_path, monkeypatch):
    to_json = History.to_json
    with monkeypatch.context() as patch:
        request_stop(patch, 1)
        patch.setattr(History, "to_json", lambda self: to_json(replace(self, seconds=self.seconds + 1000)))
        with pytest.raises(Interrupted):
            train_and_evaluate(make_config(data), tmp_path / "run")
    train_and_evaluate(make_config(data), tmp_path / "run")
    first, second = (record["seconds"] for record in read_records(tmp_path / "run", timed=True))
    assert first > 1000 > second
