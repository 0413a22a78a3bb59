"""`evaluate`, `compare` and `card`, run as a user runs them."""

import csv
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from input_pipeline.sources.isic import CLASS_NAMES as NAMES
from mobilenet_jax.reporting.report import list_warnings
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.weights.load import read_weights
from tests.helpers.datasets import add_official_sets, write_isic
from tests.helpers.runs import make_config, read_records, read_table


def test_evaluate_says_of_the_validation_split_what_training_said(run, workdir):
    status, out, err = run("evaluate", workdir, "--resamples=20", "--checkpoint=latest")
    assert status == 0
    folder = workdir / "evaluation" / "validation-latest"
    found, [record] = json.loads((folder / "metrics.json").read_text()), read_records(workdir)
    for name, key in (("loss", "nll"), ("accuracy", "accuracy"), ("balanced_accuracy", "balanced_accuracy")):
        assert found["metrics"][key] == pytest.approx(record[f"val_{name}"], rel=1e-4)
    assert re.search(rf"balanced accuracy +{record['val_balanced_accuracy']:.4f}  \[0\.", out)
    assert (found["images"], found["lesions"], found["lesions_trained_on"]) == (14, 7, 0)
    assert found["malignant"] == ["MEL", "BCC", "AKIEC"]
    low, high = found["intervals"]["accuracy"]
    assert 0 <= low <= found["metrics"]["accuracy"] <= high <= 1
    assert [row["image"] for row in read_table(folder / "predictions.csv")] == [
        row["image"] for row in read_table(workdir / "splits.csv") if row["split"] == "validation"
    ]
    assert "Classes with fewer than ten images here" in err
    assert {p.name for p in folder.iterdir()} == {
        "metrics.json", "predictions.csv", "report.html", "curves.png", "confusion.png", "roc.png",
        "precision_recall.png", "reliability.png", "scores.png",
    }  # fmt: skip


def test_the_report_is_one_file_that_needs_no_network(run, workdir):
    run("evaluate", workdir, "--resamples=5")
    html = (workdir / "evaluation" / "validation" / "report.html").read_text()
    assert len(html) < 3_000_000
    assert set(re.findall(r'(?:src|href)="?(.{5})', html)) == {"data:"}
    assert "://" not in re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL)
    for words in ("Not a medical device", "Limits of use", "The worst mistakes", "The least sure", "Headline"):
        assert words in html


def test_evaluated_on_what_it_was_trained_on_it_says_so(run, workdir):
    status, _, err = run("evaluate", workdir, "--split=training", "--resamples=0")
    assert status == 0
    assert "warning: These images were trained on" in err
    found = json.loads((workdir / "evaluation" / "training" / "metrics.json").read_text())
    assert (found["lesions"], found["lesions_trained_on"], found["intervals"]) == (14, 14, {})
    assert run("evaluate", workdir, "--split=all", "--resamples=0")[2].startswith("warning: 14 of the 21 lesions")


def test_evaluated_on_drawn_images_it_says_so():
    labels = np.repeat(np.arange(7), 10)
    facts = {"source": "sample", "split": "all", "lesions": 70, "lesions_trained_on": 0}
    predictions = SimpleNamespace(labels=labels, class_names=NAMES)
    found = list_warnings(SimpleNamespace(facts=facts, predictions=predictions))
    assert found == ["These images are drawn by a program, and no medical data."]


def test_corrections_are_fitted_on_validation_and_applied_on_request(run, workdir):
    status, _, err = run("evaluate", workdir, "--split=all", "--correct=prior", "--resamples=0")
    assert status == 1
    assert "calibration.json is missing: run mobilenet-jax evaluate on the validation split first" in err
    for arguments in ([], ["--correct=temperature"], ["--split=all", "--correct=prior"]):
        assert run("evaluate", workdir, "--resamples=0", *arguments)[0] == 0
    plain, warm = (
        json.loads((workdir / "evaluation" / name / "metrics.json").read_text())["metrics"]
        for name in ("validation", "validation-temperature")
    )
    assert plain["accuracy"] == warm["accuracy"]
    assert plain["nll"] != warm["nll"]
    assert (workdir / "evaluation" / "all-prior" / "report.html").exists()
    status, _, err = run("evaluate", workdir, "--split=all", "--correct=prior", "--resamples=0", "--tta=2")
    assert status == 1
    assert re.search(r"was fitted to best checkpoint, step \d+, 1 view, not to best .*, 2 views: run", err)


def test_a_run_validated_on_the_archives_own_set_is_evaluated_on_it(run, tmp_path):
    """Which of its images show the same lesion the archive does not say: nor does the report claim to know."""
    data = add_official_sets(write_isic(tmp_path / "isic"))
    train_and_evaluate(make_config(data, train__epochs=1, data__split="official"), tmp_path / "run")
    status, _, err = run("evaluate", tmp_path / "run", "--resamples=2")
    assert status == 0
    assert "It is not known which of these images show the same lesion" in err
    folder = tmp_path / "run" / "evaluation" / "validation"
    found = json.loads((folder / "metrics.json").read_text())
    assert (found["images"], found["lesions"], found["lesions_trained_on"]) == (42, None, None)
    assert all(row["image"].startswith("ISIC_1") for row in read_table(folder / "predictions.csv"))
    for words in ("samples drawn by\nimage", "were trained on: <b>not known", "isic (isic2018)"):
        assert words in (folder / "report.html").read_text()
    assert run("card", tmp_path / "run")[0] == 0
    assert "show the same lesion is not known" in (tmp_path / "run" / "card" / "README.md").read_text()
    status, _, err = run("evaluate", tmp_path / "run", "--split=training", "--resamples=0")
    assert status == 0
    found = json.loads((tmp_path / "run" / "evaluation" / "training" / "metrics.json").read_text())
    assert (found["images"], found["lesions"]) == (42, 21)
    table_ = tmp_path / "run" / "splits.csv"
    table_.write_text(table_.read_text().replace("ISIC_1000003", "ISIC_1999999"))
    assert "are not those of" in run("evaluate", tmp_path / "run")[2]


def test_of_two_folds_each_image_is_judged_by_the_run_that_held_it_out(run, data, tmp_path):
    for fold in (1, 2):
        train_and_evaluate(make_config(data, train__epochs=1, data__split=f"fold:{fold}/2"), tmp_path / str(fold))
    folds = [tmp_path / "1", tmp_path / "2"]
    assert "take --folds, and --out" in run("evaluate", *folds)[2]
    assert run("evaluate", *folds, "--folds", f"--out={tmp_path / 'cv'}", "--resamples=0")[0] == 0
    rows = {row["image"]: row for row in read_table(tmp_path / "cv" / "predictions.csv")}
    assert len(rows) == 42
    for fold in folds:
        run("evaluate", fold, "--resamples=0")
        for row in read_table(fold / "evaluation" / "validation" / "predictions.csv"):
            assert row == rows[row["image"]]
    assert json.loads((tmp_path / "cv" / "metrics.json").read_text())["lesions_trained_on"] == 0
    assert "evaluate one run" in run("evaluate", *folds, "--folds", "--split=training", f"--out={tmp_path / 'x'}")[2]
    assert "is no other fold" in run("evaluate", *2 * [tmp_path / "1"], "--folds", f"--out={tmp_path / 'x'}")[2]
    assert run("evaluate", *folds, "--folds", "--split=all", f"--out={tmp_path / 'mean'}", "--resamples=0")[0] == 0


def no_checkpoint(workdir, data):
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").mkdir()


def two_classes(workdir, data):
    for name in ("MEL", "NV"):
        (workdir / "other" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (40, 40), (20 * i, 0, 0)).save(workdir / "other" / name / f"{name}{i}.jpg")
    return ["--data", workdir / "other", "--source=folders", "--split=all"]


def empty_folder(workdir, data):
    (workdir / "nothing").mkdir()
    return ["--data", workdir / "nothing"]


def half_a_file(workdir, data):
    (workdir / "config.json").write_text("{")


def half_the_labels(workdir, data):
    copy = shutil.copytree(data, workdir / "half")
    [truth] = copy.glob("*GroundTruth/*.csv")
    lines = truth.read_text().splitlines()
    truth.write_text("\n".join(lines[:20]) + "\n")
    return ["--data", copy]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (no_checkpoint, "no whole checkpoint yet"),
        (two_classes, "was trained on the 7 classes MEL, NV, BCC, AKIEC, BKL, DF, VASC; the data have 2: MEL, NV"),
        (empty_folder, "ISIC2018_Task3_Training_Input is missing"),
        (half_the_labels, "GroundTruth"),
        (lambda w, d: ["--out", w / "config.json" / "x"], "Not a directory"),
        (lambda w, d: ["--malignant=MEL,XYZ"], "--malignant names XYZ; the classes are MEL"),
        (lambda w, d: ["--source=sample", "--data", d], "--source says the layout of"),
        (lambda w, d: ["--tta=9"], "have 1 to 8 views, not 9"),
        (lambda w, d: (w / "splits.csv").unlink(), "is no workdir of a run: splits.csv is missing"),
        (half_a_file, "cannot be read"),
    ],
)
def test_what_cannot_be_evaluated_is_told_in_a_line(run, workdir, data, prepare, message):
    status, out, err = run("evaluate", workdir, "--resamples=0", *(prepare(workdir, data) or []))
    assert status == 1
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["--resamples=-1", "--batch-size=0", "--tta=0"])
def test_numbers_that_mean_nothing_are_refused(run, workdir, option):
    assert run("evaluate", workdir, option)[0] == 2


def test_compared_runs_are_told_apart_by_their_difference(run, workdir, tmp_path):
    run("evaluate", workdir, "--resamples=0")
    other = shutil.copytree(workdir, tmp_path / "other")
    path = other / "evaluation" / "validation" / "predictions.csv"
    rows = read_table(path)
    for row in rows:  # a perfect one
        row |= {name: float(name == row["label"]) for name in NAMES}
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    status, out, _ = run("compare", workdir, other, "--resamples=50")
    assert status == 0
    assert out.startswith("14 images in common\n\n|  | run | other |")
    [line] = [line for line in out.splitlines() if line.startswith("| accuracy")]
    before = json.loads((workdir / "evaluation" / "validation" / "metrics.json").read_text())["metrics"]["accuracy"]
    assert line.startswith(f"| accuracy | {before:.4f} | 1.0000 ({1 - before:+.4f} [")
    assert line.endswith(" *) |")
    assert out.endswith(f"\n{tmp_path / 'compare.png'}\n")
    with Image.open(tmp_path / "compare.png") as picture:
        assert picture.width > 1000


def test_what_cannot_be_compared_is_told_in_a_line(run, workdir):
    assert "two workdirs or more" in run("compare", workdir)[2]
    status, _, err = run("compare", workdir, workdir)
    assert status == 1
    assert err.endswith("predictions.csv is missing: run mobilenet-jax evaluate first\n")


def test_a_card_holds_what_a_hub_and_a_reader_need(run, workdir):
    assert "run mobilenet-jax evaluate first" in run("card", workdir)[2]
    run("evaluate", workdir, "--resamples=5")
    assert "is of the best checkpoint, step " in run("card", workdir, "--checkpoint=latest")[2]
    run("evaluate", workdir, "--resamples=0", "--tta=2")
    assert "is not of the weights alone" in run("card", workdir, "--evaluation=validation-tta2")[2]
    assert run("card", workdir)[0] == 0
    _, header, text = (workdir / "card" / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["license"] == "cc-by-nc-4.0"
    [result] = card["model-index"][0]["results"]
    found = json.loads((workdir / "evaluation" / "validation" / "metrics.json").read_text())
    assert result["metrics"][0]["value"] == pytest.approx(found["metrics"]["balanced_accuracy"], abs=1e-4)
    for words in ("Not a medical device", "Intended use", "Limits", "Data and licence", "CC BY-NC 4.0"):
        assert words in text
    config = json.loads((workdir / "card" / "config.json").read_text())
    assert tuple(config["id2label"].values()) == NAMES
    assert config["training"]["data"]["dir"] == "isic"  # not where it lay
    expected = read_weights(workdir)
    published = read_weights(workdir / "card" / "model.safetensors")
    assert published.metadata.classes == NAMES
    assert all(np.array_equal(published.tensors[name], value) for name, value in expected.tensors.items())
