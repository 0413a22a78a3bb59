import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from input_pipeline.image_ops import preprocess
from input_pipeline.preprocessing import Preprocessing
from input_pipeline.sources.isic import CLASS_NAMES as NAMES
from input_pipeline.sources.isic import INPUT
from input_pipeline.sources.registry import SOURCES
from mobilenet_jax.evaluation import trained_run
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.weights.load import read_weights
from tests.helpers.documents import run_python_blocks, write_photos
from tests.helpers.runs import make_config

KEYS = Preprocessing._fields
METRICS = "evaluation/validation/metrics.json"

pytestmark = pytest.mark.usefixtures("unrendered_plots")


def test_card_leaves_a_workdir_as_it_is(run, evaluated):
    before = (evaluated / "config.json").read_bytes()
    status, _, err = run("card", evaluated, "--out", evaluated)
    assert status == 1
    assert "is a workdir, whose config.json would be replaced" in err
    assert (evaluated / "config.json").read_bytes() == before


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_card_replaces_its_own_files_only(run, evaluated, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text(text := "---\nlibrary_name: jax\n---\nmine")
    status, _, err = run("card", evaluated, "--out", tmp_path / "mine")
    assert status == 1
    assert f"{name} does not belong to a model card, and would be replaced: choose another --out" in err
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == [text]
    for _ in range(2):
        assert run("card", evaluated, "--out", tmp_path / "card")[0] == 0


def test_card_writes_the_files_of_a_hub_with_the_metrics_of_the_evaluation(run, evaluated):
    assert run("card", evaluated)[:2] == (0, f"{evaluated / 'card'}\n")
    _, header, text = (evaluated / "card" / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["license"] == "cc-by-nc-4.0"
    [result] = card["model-index"][0]["results"]
    metrics = json.loads((evaluated / METRICS).read_text())["metrics"]
    assert result["metrics"][0]["value"] == pytest.approx(metrics["balanced_accuracy"], abs=1e-4)
    for words in ("Not a medical device", "Intended use", "Limitations", "Data and license", "CC BY-NC 4.0"):
        assert words in text
    config = json.loads((evaluated / "card" / "config.json").read_text())
    assert tuple(config["id2label"].values()) == NAMES
    assert config["training"]["data"]["dir"] == "isic", "not the folder on the training machine"
    expected = read_weights(evaluated)
    published = read_weights(evaluated / "card" / "model.safetensors")
    assert published.metadata.classes == NAMES
    assert all(np.array_equal(published.tensors[name], value) for name, value in expected.tensors.items())
    assert {p.name for p in (evaluated / "card").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "confusion.png", "reliability.png",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "name", "license_"),
    [
        ("ham10000", "ISIC 2018 Task 3 (HAM10000)", "CC BY-NC 4.0"),
        ("sample", "synthetic lesions", "that of the code"),
        ("folders", "images that are not published with the model", "not known"),
        ("new", "images that are not published with the model", "not known"),
    ],
)
def test_only_isic_sources_have_the_name_and_the_license_of_isic(run, evaluated, monkeypatch, source, name, license_):
    monkeypatch.setitem(SOURCES, "new", SOURCES["folders"])
    _change_json(evaluated / "config.json", lambda config: config["data"].update(source=source))
    _change_json(
        evaluated / "evaluation" / "validation" / "metrics.json", lambda results: results.update(source=source)
    )
    assert run("card", evaluated)[0] == 0
    _, header, text = (evaluated / "card" / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["license"] == ("cc-by-nc-4.0" if source == "ham10000" else "unknown")
    assert card["model-index"][0]["results"][0]["dataset"]["name"].startswith(name)
    assert f"Training data: {name}" in text
    assert f"License: {license_}." in text
    assert "\n\nIn brackets: " in text, "a paragraph of its own"


def test_metrics_that_an_evaluation_lacks_are_not_available(run, evaluated):
    _change_json(
        evaluated / "evaluation" / "validation" / "metrics.json", lambda results: results["metrics"].pop("ece")
    )
    assert run("card", evaluated)[0] == 0
    assert "| calibration error | not available |" in (evaluated / "card" / "README.md").read_text()


def _change_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("text", ["{}", "[]", "[" * 200_000])
def test_damaged_metrics_are_refused_and_nothing_is_written(run, evaluated, text):
    (evaluated / METRICS).write_text(text)
    status, _, err = run("card", evaluated)
    assert (status, err.count("\n")) == (1, 1)
    assert "metrics.json" in err
    assert not (evaluated / "card").exists()


def test_evaluations_that_are_not_of_the_published_weights_are_refused(run, trained, evaluated):
    assert f"run mobilenet-jax evaluate {trained} first" in run("card", trained)[2]
    assert "is of the best checkpoint, step " in run("card", evaluated, "--checkpoint=latest")[2]
    run("evaluate", evaluated, "--resamples=0", "--tta=2")
    run("evaluate", evaluated, "--resamples=0", "--correct=prior")
    for name in ("validation-tta2", "validation-prior"):
        assert "not part of the published weights" in run("card", evaluated, f"--evaluation={name}")[2]
    assert not (trained / "card").exists()
    assert not (evaluated / "card").exists()


def test_the_python_of_a_card_runs_and_gives_the_probabilities_of_predict(run, evaluated, data, monkeypatch):
    run("card", evaluated)
    monkeypatch.chdir(evaluated / "card")
    shutil.copy(min((data / INPUT.format("Training")).iterdir()), "photo.jpg")
    names = {}
    assert run_python_blocks((evaluated / "card" / "README.md").read_text(), names) == 3
    assert names["images"].shape == (1, 32, 32, 3)
    assert (names["low"], names["high"]) == (0, 1)
    run("predict", evaluated, "photo.jpg", "--out=p.jsonl", "--format=jsonl")
    expected = json.loads((evaluated / "card" / "p.jsonl").read_text())["probabilities"]
    np.testing.assert_allclose(names["probabilities"][0], list(expected.values()), atol=2e-2)


@pytest.mark.parametrize("steps", [("crop", "none"), ("stretch", "shades_of_gray"), ("crop", "shades_of_gray")])
def test_a_card_describes_the_preprocessing_of_the_weights(run, evaluated, monkeypatch, steps):
    """Its Python applies it to a photograph that is not square, with this package and without it."""
    resize, color_constancy = steps
    _change_json(evaluated / "config.json", lambda config: config["data"].update(zip(KEYS, steps, strict=True)))
    assert run("card", evaluated)[0] == 0
    card = (evaluated / "card" / "README.md").read_text()
    text = " ".join(card.split())
    assert ("The longer side of a photograph is cut equally at both ends" in text) == (resize == "crop")
    assert ("resized to 32 x 32 pixels (height x width) as a whole" in text) == (resize == "stretch")
    assert ("The color cast of the light is removed" in text) == (color_constancy != "none")
    published = json.loads((evaluated / "card" / "config.json").read_text())
    assert (published.get("resize", "stretch"), published.get("color_constancy", "none")) == steps
    assert read_weights(evaluated / "card" / "model.safetensors").metadata.preprocessing == steps
    monkeypatch.chdir(evaluated / "card")
    photograph = np.random.default_rng(0).integers(0, (256, 180, 90), (90, 130, 3), np.uint8)
    Image.fromarray(photograph).save("photo.jpg", "PNG")  # which every program decodes to the same pixels
    expected = preprocess(photograph, (32, 32), Preprocessing(*steps)) / 255
    package, opencv, _ = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    for block in (package, opencv):
        exec(block, names := {})
        np.testing.assert_allclose(names["images"][0], expected, atol=1e-6)


def test_a_card_of_the_default_preprocessing_does_not_mention_other_steps(run, evaluated):
    assert run("card", evaluated)[0] == 0
    card = (evaluated / "card" / "README.md").read_text()
    for word in ("Preprocessing(", "cut equally", "color cast"):
        assert word not in card
    assert not {*KEYS} & json.loads((evaluated / "card" / "config.json").read_text()).keys()


def test_cards_and_reports_of_other_images_do_not_mention_skin(run, evaluated, tmp_path):
    write_photos(tmp_path / "photos")
    own = tmp_path / "own"
    changes = {"data__source": "folders", "model__num_classes": 3, "train__batch_size": 4, "train__epochs": 1}
    train_and_evaluate(make_config(tmp_path / "photos", **changes), own)
    run("evaluate", own, "--resamples=0")
    for path in (evaluated, own):
        assert run("card", path)[0] == 0
    isic, photos = ((path / "card" / "README.md").read_text() for path in (evaluated, own))
    for word in ("lesion", "medical", "diagnosis", "skin"):
        assert word in isic
        assert word not in photos
    assert "top-2 accuracy" in photos
    assert "top-3 accuracy" not in photos
    report = (own / "evaluation" / "validation" / "report.html").read_text().partition("<details>")[0]
    for word in ("lesion", "medical", "top-3 accuracy", "the ISIC challenge"):
        assert word not in report


def test_evaluations_of_earlier_versions_become_cards(run, evaluated):
    """Their metrics may lack one that is listed now."""
    _change_json(evaluated / METRICS, lambda results: results["metrics"].pop("top_3_accuracy"))
    assert run("card", evaluated)[0] == 0
    assert "| top-3 accuracy | not available |" in (evaluated / "card" / "README.md").read_text()


def test_class_names_of_others_cannot_change_the_page(run, evaluated, monkeypatch):
    hostile = "<script>alert(1)</script> | `x` [a](b) _c_"
    read = trained_run.read_trained_run

    def read_hostile(workdir, checkpoint):
        model = read(workdir, checkpoint)
        names = (hostile, *model.class_names[1:])
        return replace(model, class_names=names)

    monkeypatch.setattr(trained_run, "read_trained_run", read_hostile)
    assert run("card", evaluated)[0] == 0
    text = (evaluated / "card" / "README.md").read_text().split("---\n", 2)[2]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert re.search(r"(?<!\\)<script", prose) is None
    [row] = [line for line in prose.splitlines() if line.startswith("| ") and "script" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 5  # the borders of four cells


def test_settings_of_others_cannot_change_the_page(run, evaluated):
    hostile = "# a <img src=x onerror=alert(1)> [a](javascript:alert(1))"
    _change_json(evaluated / "config.json", lambda config: config["loss"].update(class_weights=hostile))
    assert run("card", evaluated)[0] == 0
    text = (evaluated / "card" / "README.md").read_text()
    assert "onerror" in text
    assert re.search(r"(?<!\\)<img", text) is None
    _change_json(evaluated / METRICS, lambda results: results.update(images=hostile))
    status, _, err = run("card", evaluated)
    assert status == 1
    assert "metrics.json: run mobilenet-jax evaluate" in err


def test_an_interrupted_card_is_not_next_to_earlier_weights(run, evaluated, monkeypatch):
    assert run("card", evaluated)[0] == 0

    def interrupt(*arguments, **options):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("mobilenet_jax.reporting.model_card.write_weights", interrupt)
        assert run("card", evaluated)[0] == 1
    assert [path.name for path in (evaluated / "card").iterdir()] == ["README.md"]
    assert run("card", evaluated)[0] == 0


def test_the_hub_parses_the_metadata_of_a_card(run, evaluated):
    """The same checks run on the Hub, which refuses a card that does not pass them."""
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs pip install -e '.[hub]'")
    name = """größe "a": 'b' #1 <c> & 🔬 \\d"""
    changes = {"source": "folders", "data": name}
    _change_json(evaluated / METRICS, lambda results: results.update(changes))
    _change_json(
        evaluated / "config.json",
        lambda config: (config["init"].update(weights="hf://owner/base"), config["data"].update(source="folders")),
    )
    assert run("card", evaluated)[0] == 0
    card = huggingface_hub.ModelCard.load(evaluated / "card" / "README.md")
    assert "initialized with hf://owner/base and" in card.text
    [balanced, accuracy] = card.data.eval_results
    assert balanced.dataset_name == f"images that are not published with the model, {name}, split validation"
    assert (balanced.task_type, balanced.metric_type) == ("image-classification", "balanced_accuracy")
    metrics = json.loads((evaluated / METRICS).read_text())["metrics"]
    assert accuracy.metric_value == pytest.approx(metrics["accuracy"], abs=1e-4)
    assert type(accuracy.metric_value) is float
    assert card.data.model_name == "mobilenet-v1-0.25"
    assert card.data.license == "unknown"
    config = json.loads((evaluated / "card" / "config.json").read_text())
    assert config["training"]["init"]["weights"] == "hf://owner/base"


def test_neither_report_nor_metrics_publish_folders(evaluated):
    folder = evaluated / "evaluation" / "validation"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["workdirs"] == ["run"]
    for name in ("metrics.json", "report.html"):
        assert str(evaluated.parent) not in (folder / name).read_text()
        assert "/tmp" not in (folder / name).read_text().split("<img")[0]


@pytest.mark.parametrize("weights", [None, "", "None", "none"])
def test_a_run_without_initial_weights_started_from_random_ones(run, evaluated, weights):
    _change_json(evaluated / "config.json", lambda config: config["init"].update(weights=weights))
    assert run("card", evaluated)[0] == 0
    assert "initialized with random weights and" in (evaluated / "card" / "README.md").read_text()
