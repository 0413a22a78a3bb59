import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from input_pipeline.atomic_files import write_atomically
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.evaluate import Evaluation
from mobilenet_jax.evaluation.metrics import compute_metrics
from mobilenet_jax.reporting.report import build_metrics_json, check_report_folder, write_report
from tests.helpers.predictions import make_predictions

PLOTS = {f"{name}.png" for name in ("confusion", "roc", "precision_recall", "reliability", "scores", "curves")}


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


@pytest.mark.parametrize("file", ["predictions.csv", "confusion.png", "metrics.json"])
def test_an_interrupted_report_is_not_taken_for_a_complete_one(tmp_path, monkeypatch, file):
    """Commands that read an evaluation require `metrics.json` or `report.html`."""
    for name in (*PLOTS, "metrics.json", "report.html", "predictions.csv"):
        (tmp_path / name).write_text("of an earlier evaluation")

    def write(path, content):
        if path.name == file:
            raise KeyboardInterrupt
        write_atomically(path, content)

    monkeypatch.setattr("mobilenet_jax.reporting.report.write_atomically", write)
    predictions = make_predictions([0, 1], np.eye(4)[:2])
    run = SimpleNamespace(images=None, shows_lesions=True, records=[])
    facts = {"views": 1, "source": "folders", "split": "all", "lesions": None}
    evaluation = Evaluation([run], predictions, np.array([]), compute_metrics(predictions), {}, facts)
    with pytest.raises(KeyboardInterrupt):
        write_report(evaluation, tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"predictions.csv"} | (PLOTS - {"curves.png"} if file == "metrics.json" else set())
    assert all(path.read_bytes() != b"of an earlier evaluation" for path in tmp_path.glob("*.png"))
    if file != "predictions.csv":
        check_report_folder(tmp_path)  # it can be repeated


def test_files_of_others_are_not_replaced(tmp_path):
    check_report_folder(tmp_path)
    check_report_folder(tmp_path / "none")
    (tmp_path / "predictions.csv").write_text("image,predicted,MEL,NV\n")  # as `predict` writes it
    with pytest.raises(EvaluationError, match=r"predictions.csv does not belong to a report, and would be replaced"):
        check_report_folder(tmp_path)
    (tmp_path / "predictions.csv").rename(tmp_path / "roc.png")
    with pytest.raises(EvaluationError, match=r"roc.png does not belong to a report"):
        check_report_folder(tmp_path)
