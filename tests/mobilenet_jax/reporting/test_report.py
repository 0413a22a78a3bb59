import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from mobilenet_jax.evaluation.evaluate import Evaluation
from mobilenet_jax.evaluation.metrics import compute_metrics
from mobilenet_jax.reporting.report import build_metrics_json, write_report
from tests.helpers.predictions import make_predictions


def test_undefined_metrics_are_null_in_valid_json():
    predictions = make_predictions([0, 1], np.eye(4)[:2])
    metrics = compute_metrics(predictions)
    assert math.isnan(metrics["DF.recall"])
    facts = {"views": 1, "source": "folders", "split": "all", "lesions": None}
    run = SimpleNamespace(images=None, shows_lesions=True)
    evaluation = Evaluation([run], predictions, np.array([]), metrics, {"DF.recall": (math.nan, math.nan)}, facts)
    content = json.loads(json.dumps(build_metrics_json(evaluation), allow_nan=False))
    assert content["views"] == 1
    assert content["warnings"][0].startswith("The images that these weights were trained on are not known")
    assert content["metrics"]["DF.recall"] is None
    assert content["metrics"]["accuracy"] == 1
    assert content["intervals"]["DF.recall"] == [None, None]


def test_an_interrupted_report_is_not_taken_for_a_complete_one(tmp_path, monkeypatch):
    """`report.html` is written last, and its age shows whether a cross-validation is evaluated."""
    (tmp_path / "report.html").write_text("of an earlier evaluation")

    def interrupt(predictions):
        raise KeyboardInterrupt

    monkeypatch.setattr("mobilenet_jax.reporting.report.draw_figures", interrupt)
    predictions = make_predictions([0, 1], np.eye(4)[:2])
    run = SimpleNamespace(images=None, shows_lesions=True)
    facts = {"views": 1, "source": "folders", "split": "all", "lesions": None}
    with pytest.raises(KeyboardInterrupt):
        write_report(Evaluation([run], predictions, np.array([]), compute_metrics(predictions), {}, facts), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "predictions.csv"]
