import json

import numpy as np
import pytest
import yaml

from input_pipeline.sources.isic import CLASS_NAMES as NAMES
from input_pipeline.sources.registry import SOURCES
from mobilenet_jax.weights.load import read_weights


def test_card_writes_the_files_of_a_hub_with_the_metrics_of_the_evaluation(run, workdir):
    run("evaluate", workdir, "--resamples=5")
    assert run("card", workdir)[:2] == (0, f"{workdir / 'card'}\n")
    _, header, text = (workdir / "card" / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["license"] == "cc-by-nc-4.0"
    [result] = card["model-index"][0]["results"]
    metrics = json.loads((workdir / "evaluation" / "validation" / "metrics.json").read_text())["metrics"]
    assert result["metrics"][0]["value"] == pytest.approx(metrics["balanced_accuracy"], abs=1e-4)
    for words in ("Not a medical device", "Intended use", "Limitations", "Data and license", "CC BY-NC 4.0"):
        assert words in text
    config = json.loads((workdir / "card" / "config.json").read_text())
    assert tuple(config["id2label"].values()) == NAMES
    assert config["training"]["data"]["dir"] == "isic", "not the folder on the training machine"
    expected = read_weights(workdir)
    published = read_weights(workdir / "card" / "model.safetensors")
    assert published.metadata.classes == NAMES
    assert all(np.array_equal(published.tensors[name], value) for name, value in expected.tensors.items())
    assert {p.name for p in (workdir / "card").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "confusion.png", "reliability.png",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "name", "license_"),
    [
        ("ham10000", "ISIC 2018 Task 3 (HAM10000)", "CC BY-NC 4.0"),
        ("sample", "synthetic lesions", "that of the code"),
        ("folders", "the user's own images", "not known"),
        ("new", "the user's own images", "not known"),
    ],
)
def test_only_isic_sources_have_the_name_and_the_license_of_isic(run, workdir, monkeypatch, source, name, license_):
    monkeypatch.setitem(SOURCES, "new", SOURCES["folders"])
    run("evaluate", workdir, "--resamples=0")
    _change_json(workdir / "config.json", lambda config: config["data"].update(source=source))
    _change_json(workdir / "evaluation" / "validation" / "metrics.json", lambda results: results.update(source=source))
    assert run("card", workdir)[0] == 0
    _, header, text = (workdir / "card" / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["license"] == ("cc-by-nc-4.0" if source == "ham10000" else "unknown")
    assert card["model-index"][0]["results"][0]["dataset"]["name"].startswith(name)
    assert f"Training data: {name}" in text
    assert f"License: {license_}." in text


def test_metrics_that_an_evaluation_lacks_are_not_available(run, workdir):
    run("evaluate", workdir, "--resamples=0")
    _change_json(workdir / "evaluation" / "validation" / "metrics.json", lambda results: results["metrics"].pop("ece"))
    assert run("card", workdir)[0] == 0
    assert "| calibration error | not available |" in (workdir / "card" / "README.md").read_text()


def _change_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_evaluations_that_are_not_of_the_published_weights_are_refused(run, workdir):
    assert "run mobilenet-jax evaluate first" in run("card", workdir)[2]
    run("evaluate", workdir, "--resamples=0")
    assert "is of the best checkpoint, step " in run("card", workdir, "--checkpoint=latest")[2]
    run("evaluate", workdir, "--resamples=0", "--tta=2")
    assert "not part of the published weights" in run("card", workdir, "--evaluation=validation-tta2")[2]
    assert not (workdir / "card").exists()
