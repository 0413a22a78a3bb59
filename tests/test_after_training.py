"""`evaluate` and `predict`, run as a user runs them; what the classifier computes."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from PIL import Image

from mobilenet_jax.cli import main
from mobilenet_jax.evaluation.classifier import Classifier, view
from mobilenet_jax.pretrained import read_weights
from mobilenet_jax.train import train_and_evaluate
from tests.conftest import add_official_sets, with_devices, write_isic
from tests.test_train import _config, _records

NAMES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command; gives its status, and what it wrote to stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mobilenet-jax", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_isic(tmp_path_factory.mktemp("data") / "isic")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train_and_evaluate(_config(data, train__epochs=1), workdir)
    return workdir


@pytest.fixture
def workdir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_evaluate_says_of_the_validation_split_what_training_said(run, workdir):
    status, out, err = run("evaluate", workdir, "--resamples=20", "--checkpoint=latest")
    assert status == 0
    folder = workdir / "evaluation" / "validation-latest"
    found, [record] = json.loads((folder / "metrics.json").read_text()), _records(workdir)
    for name, key in (("loss", "nll"), ("accuracy", "accuracy"), ("balanced_accuracy", "balanced_accuracy")):
        assert found["metrics"][key] == pytest.approx(record[f"val_{name}"], rel=1e-4)
    assert re.search(rf"balanced accuracy +{record['val_balanced_accuracy']:.4f}  \[0\.", out)
    assert (found["images"], found["lesions"], found["lesions_trained_on"]) == (14, 7, 0)
    assert found["malignant"] == ["MEL", "BCC", "AKIEC"]
    low, high = found["intervals"]["accuracy"]
    assert 0 <= low <= found["metrics"]["accuracy"] <= high <= 1
    assert [row["image"] for row in table(folder / "predictions.csv")] == [
        row["image"] for row in table(workdir / "splits.csv") if row["split"] == "validation"
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


def test_evaluated_on_drawn_images_it_says_so(run, workdir):
    status, _, err = run("evaluate", workdir, "--source=sample", "--split=all", "--resamples=0")
    assert status == 0
    assert "warning: These images are drawn by a program, and no medical data.\n" in err


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
    train_and_evaluate(_config(data, train__epochs=1, data__split="official"), tmp_path / "run")
    status, _, err = run("evaluate", tmp_path / "run", "--resamples=2")
    assert status == 0
    assert "It is not known which of these images show the same lesion" in err
    folder = tmp_path / "run" / "evaluation" / "validation"
    found = json.loads((folder / "metrics.json").read_text())
    assert (found["images"], found["lesions"], found["lesions_trained_on"]) == (42, None, None)
    assert all(row["image"].startswith("ISIC_1") for row in table(folder / "predictions.csv"))
    for words in ("samples drawn by\nimage", "were trained on: <b>not known", "isic (isic2018)"):
        assert words in (folder / "report.html").read_text()
    assert run("card", tmp_path / "run")[0] == 0
    assert "show the same lesion is not known" in (tmp_path / "run" / "card" / "README.md").read_text()
    status, _, err = run("evaluate", tmp_path / "run", "--split=training", "--resamples=0")
    assert status == 0
    found = json.loads((tmp_path / "run" / "evaluation" / "training" / "metrics.json").read_text())
    assert (found["images"], found["lesions"]) == (42, 21)
    assert run("evaluate", tmp_path / "run", "--split=official:test", "--resamples=0", f"--data={data}")[0] == 0
    assert (tmp_path / "run" / "evaluation" / "official-test-isic" / "report.html").exists()
    table_ = tmp_path / "run" / "splits.csv"
    table_.write_text(table_.read_text().replace("ISIC_1000003", "ISIC_1999999"))
    assert "are not those of" in run("evaluate", tmp_path / "run")[2]


def test_of_two_folds_each_image_is_judged_by_the_run_that_held_it_out(run, data, tmp_path):
    for fold in (1, 2):
        train_and_evaluate(_config(data, train__epochs=1, data__split=f"fold:{fold}/2"), tmp_path / str(fold))
    folds = [tmp_path / "1", tmp_path / "2"]
    assert "take --folds, and --out" in run("evaluate", *folds)[2]
    assert run("evaluate", *folds, "--folds", f"--out={tmp_path / 'cv'}", "--resamples=0")[0] == 0
    rows = {row["image"]: row for row in table(tmp_path / "cv" / "predictions.csv")}
    assert len(rows) == 42
    for fold in folds:
        run("evaluate", fold, "--resamples=0")
        for row in table(fold / "evaluation" / "validation" / "predictions.csv"):
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


@pytest.fixture(scope="module")
def images(data):
    return next(data.glob("*Input"))


def test_predict_writes_the_challenges_table(run, trained, images, tmp_path):
    (tmp_path / "broken.jpg").write_text("no image")
    status, out, err = run("predict", trained, images, tmp_path / "*.jpg", f"--out={tmp_path / 'p.csv'}")
    assert status == 1
    assert err == (
        f"error: 1 of 43 images left out, the last: {tmp_path / 'broken.jpg'} cannot be read "
        "(it is no JPEG or PNG, or a damaged one)\n"
    )
    assert out == f"{tmp_path / 'p.csv'}: 42 images\n"
    rows = table(tmp_path / "p.csv")
    assert tuple(rows[0]) == ("image", *NAMES)
    assert [row["image"] for row in rows] == sorted(p.stem for p in images.iterdir())
    for row in rows:
        assert sum(float(row[name]) for name in NAMES) == pytest.approx(1, abs=1e-5)
    assert run("evaluate", trained, "--split=all", "--resamples=0", f"--out={tmp_path / 'e'}")[0] == 0
    for row, same in zip(rows, table(tmp_path / "e" / "predictions.csv"), strict=True):
        assert [float(row[n]) for n in NAMES] == pytest.approx([float(same[n]) for n in NAMES], rel=1e-4)


def test_predict_finds_images_as_people_mean_it(run, trained, images, tmp_path):
    """Folders that a pattern matches, not what is hidden; and a link for a table is followed."""
    for name in ("a/1.jpg", "a/b/2.JPG", "a/._1.jpg", "a/.hidden/3.jpg", "4 ü.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(min(images.iterdir()), tmp_path / "photos" / name)
    shutil.copy(min(images.iterdir()), os.fsencode(tmp_path / "photos") + b"/m\xe9l.jpg")
    (tmp_path / "photos" / "folder.jpg").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("what was there before")
    status, _, err = run("predict", trained, tmp_path / "photos" / "*", f"--out={tmp_path / 'link.csv'}")
    assert status == 1
    assert err.startswith("error: 1 of 4 images left out, the last: ")
    assert "its name is not UTF-8" in err
    assert [row["image"] for row in table(tmp_path / "p.csv")] == ["4 ü", "1", "2"]
    assert (tmp_path / "link.csv").is_symlink()
    assert run("predict", trained, tmp_path / "photos" / "a")[0] == 0


def test_a_workdir_may_hold_what_is_not_the_runs(run, workdir, images, tmp_path):
    (workdir / "latest").symlink_to(workdir / "checkpoints")
    assert run("predict", workdir, min(images.iterdir()))[0] == 0


def test_predict_writes_json_lines_in_the_order_of_its_arguments(run, trained, images, tmp_path):
    chosen = sorted(images.iterdir())[5:2:-1]
    assert run("predict", trained, *chosen, "--out", tmp_path / "p.jsonl", "--format=jsonl", "--tta=2")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == [str(path) for path in chosen]
    for line in lines:
        assert line["predicted"] == max(line["probabilities"], key=line["probabilities"].get)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/empty"], "{tmp}/empty holds no JPEG or PNG file"),
        (["{tmp}/text"], "{tmp}/text holds no JPEG or PNG file"),
        (["{tmp}/*.bmp"], "{tmp}/*.bmp holds no JPEG or PNG file"),
        (["{images}", "--out={tmp}/none/p.csv"], "{tmp}/none/p.csv cannot be written: there is no folder {tmp}/none"),
        (["{images}", "--out={tmp}/text"], "{tmp}/text cannot be written: it is a folder, or no file"),
        (["{images}", "--out=."], "cannot be written: it is a folder, or no file"),
        (["{images}", "--out=/dev/null"], "/dev/null cannot be written: it is a folder, or no file"),
        (["{tmp}/none.jpg", "--out={tmp}/p.csv"], "1 of 1 images left out"),
        (["{images}", "--explain={tmp}/x"], "--explain goes with --out"),
        (["{images}", "--out={tmp}/p.csv", "--explain={tmp}/x", "--explain-class=XYZ"], "--explain-class is XYZ"),
        (["{images}", "{tmp}/twin", "--out={tmp}/p.csv"], "have one name"),
        (["{images}", "--correct=prior"], "calibration.json is missing"),
    ],
)
def test_what_cannot_be_predicted_is_told_in_a_line(run, trained, images, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("text")
    (tmp_path / "twin").mkdir()
    shutil.copy(min(images.iterdir()), tmp_path / "twin")
    where = {"tmp": tmp_path, "images": images}
    status, _, err = run("predict", trained, *(a.format(**where) for a in arguments))
    assert status == 1
    assert err.count("\n") == 1
    assert message.format(**where) in err
    assert not (tmp_path / "p.csv").exists()


def test_stopped_half_way_predict_leaves_nothing_under_the_tables_name(run, trained, images, tmp_path, monkeypatch):
    (tmp_path / "p.csv").write_text("what was there before")
    probabilities, calls = Classifier.probabilities, []

    def fails(self, *arguments):
        calls.append(1)
        if len(calls) > 2:
            raise OSError("the disk is gone")
        return probabilities(self, *arguments)

    monkeypatch.setattr(Classifier, "probabilities", fails)
    assert run("predict", trained, images, f"--out={tmp_path / 'p.csv'}", "--batch-size=8")[0] == 1
    assert (tmp_path / "p.csv").read_text() == "what was there before"
    assert [p.name for p in tmp_path.iterdir()] == ["p.csv"]


def test_explanations_are_drawn_beside_their_images(run, trained, images, tmp_path):
    chosen = sorted(images.iterdir())[:2]
    where = ["--out", tmp_path / "p.csv", "--explain", tmp_path / "why"]
    assert run("predict", trained, *chosen, *where, "--explain-class=DF")[0] == 0
    assert {p.name for p in (tmp_path / "why").iterdir()} == {f"{p.stem}_DF.png" for p in chosen}
    for path in chosen:
        with Image.open(tmp_path / "why" / f"{path.stem}_DF.png") as drawn:
            assert drawn.size == (2 * 448, 448)


def test_probabilities_do_not_depend_on_batches_or_neighbours(trained):
    classifier = Classifier(read_weights(trained))
    pixels = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), np.uint8)
    expected = classifier.probabilities(pixels, 10)
    for size in (1, 3, 64):
        parts = [classifier.probabilities(pixels[i : i + size], size) for i in range(0, 10, size)]
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-4)
    np.testing.assert_allclose(classifier.probabilities(pixels[::-1], 10), expected[::-1], rtol=1e-4)


@pytest.mark.slow
def test_four_devices_say_what_one_does(trained, images, tmp_path):
    for devices in (1, 4):
        environment = with_devices(devices)
        command = [Path(sys.executable).with_name("mobilenet-jax"), "predict", trained, images, "--batch-size=10"]
        subprocess.run([*command, f"--out={tmp_path / str(devices)}"], check=True, env=environment)
    for row, same in zip(table(tmp_path / "1"), table(tmp_path / "4"), strict=True):
        assert row["image"] == same["image"]
        assert [float(row[n]) for n in NAMES] == pytest.approx([float(same[n]) for n in NAMES], rel=1e-4)


def test_the_eight_views_differ_and_their_mean_is_taken(trained):
    weights = read_weights(trained)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    views = [np.asarray(view(jnp.asarray(pixels), i)) for i in range(8)]
    assert len({v.tobytes() for v in views}) == 8
    np.testing.assert_array_equal(views[0], pixels)
    assert {np.sort(v, axis=None).tobytes() for v in views} == {np.sort(pixels, axis=None).tobytes()}
    plain = Classifier(weights)
    for n in (2, 8):
        expected = np.mean([plain.probabilities(v, 2) for v in views[:n]], axis=0)
        np.testing.assert_allclose(Classifier(weights, n).probabilities(pixels, 2), expected, rtol=1e-4)


def test_compared_runs_are_told_apart_by_their_difference(run, workdir, trained, tmp_path):
    other = shutil.copytree(trained, tmp_path / "other")
    run("evaluate", workdir, "--resamples=0")
    run("evaluate", other, "--resamples=0")
    path = other / "evaluation" / "validation" / "predictions.csv"
    rows = table(path)
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
