import csv
import json
import re
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline.image_ops import preprocess
from input_pipeline.preprocessing import Preprocessing
from mobilenet_jax.cli.evaluate import _choose_folder
from mobilenet_jax.evaluation.calibration import Calibration
from mobilenet_jax.evaluation.predictions import read_predictions
from mobilenet_jax.inference.classifier import Classifier
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.save import write_weights
from mobilenet_jax.weights.weights import Weights
from tests.helpers.datasets import add_official_sets, write_photographs
from tests.helpers.documents import PREPARATIONS, write_photos
from tests.helpers.runs import make_config, read_records, read_table
from tests.helpers.weights_files import make_random_tensors, write_keras_2

pytestmark = pytest.mark.usefixtures("unrendered_plots")


def read_metrics(workdir, evaluation):
    return json.loads((workdir / "evaluation" / evaluation / "metrics.json").read_text())


def test_evaluate_reproduces_the_validation_metrics_of_training(run, workdir):
    status, out, err = run("evaluate", workdir, "--resamples=20", "--checkpoint=latest")
    assert status == 0
    folder = workdir / "evaluation" / "validation-latest"
    results, [record] = read_metrics(workdir, "validation-latest"), read_records(workdir)
    for name, key in (("loss", "nll"), ("accuracy", "accuracy"), ("balanced_accuracy", "balanced_accuracy")):
        assert results["metrics"][key] == pytest.approx(record[f"val_{name}"], rel=1e-4)
    assert re.search(rf"^accuracy +{record['val_accuracy']:.4f}  \[0\.", out, re.MULTILINE)
    # Each class has one lesion, so that every sample lacks a class.
    assert re.search(rf"^balanced accuracy +{record['val_balanced_accuracy']:.4f}$", out, re.MULTILINE)
    assert (results["images"], results["lesions"], results["lesions_trained_on"]) == (14, 7, 0)
    assert results["malignant"] == ["MEL", "BCC", "AKIEC"]
    low, high = results["intervals"]["accuracy"]
    assert 0 <= low <= results["metrics"]["accuracy"] <= high <= 1
    assert [row["image"] for row in read_table(folder / "predictions.csv")] == [
        row["image"] for row in read_table(workdir / "splits.csv") if row["split"] == "validation"
    ]
    assert "Classes with fewer than 10 lesions" in err
    assert "warning: The recall is 0 for" in err
    assert {p.name for p in folder.iterdir()} == {
        "metrics.json", "predictions.csv", "report.html", "curves.png", "confusion.png", "roc.png",
        "precision_recall.png", "reliability.png", "scores.png",
    }  # fmt: skip


@pytest.mark.parametrize("steps", [pytest.param(("crop", "none"), marks=pytest.mark.slow), ("crop", "shades_of_gray")])
def test_a_run_is_evaluated_with_the_preprocessing_of_its_training(run, tmp_path, steps):
    photographs = write_photos(tmp_path / "photos")
    changes = {"data__source": "folders", "model__num_classes": 3, "train__batch_size": 4, "train__epochs": 1}
    data = {"data__resize": steps[0], "data__color_constancy": steps[1], "train__reestimate_batch_norm": 12}
    train_and_evaluate(make_config(tmp_path / "photos", **changes, **data), tmp_path / "run")
    assert run("evaluate", tmp_path / "run", "--resamples=0")[0] == 0
    [record] = read_records(tmp_path / "run")
    assert read_metrics(tmp_path / "run", "validation")["metrics"]["nll"] == pytest.approx(record["val_loss"], rel=1e-4)
    run("predict", tmp_path / "run", *photographs, f"--out={tmp_path / 'p.csv'}")
    weights = read_weights(tmp_path / "run")
    assert weights.metadata.preprocessing == steps
    pixels = [np.asarray(Image.open(path)) for path in photographs]
    images = np.stack([preprocess(image, (32, 32), Preprocessing(*steps)) for image in pixels])
    expected = Classifier(weights).compute_probabilities(images, 4)
    predicted = [[float(row[name]) for name in weights.metadata.classes] for row in read_table(tmp_path / "p.csv")]
    np.testing.assert_allclose(predicted, expected, atol=1e-5)
    stretched = np.stack([preprocess(image, (32, 32), Preprocessing()) for image in pixels])
    assert np.abs(Classifier(weights).compute_probabilities(stretched, 4) - expected).max() > 1e-4


def test_the_report_is_one_file_that_needs_no_network(evaluated_once):
    html = (evaluated_once / "evaluation" / "validation" / "report.html").read_text()
    assert len(html) < 3_000_000
    assert set(re.findall(r'(?:src|href)="?(.{5})', html)) == {"data:"}
    assert "://" not in re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL)
    for words in ("Not a medical device", "Limitations", "Worst errors", "Least certain predictions", "Summary"):
        assert words in html


def test_evaluating_training_images_raises_a_warning(run, workdir):
    status, _, err = run("evaluate", workdir, "--split=training", "--resamples=0")
    assert status == 0
    assert "warning: The model was trained on these images" in err
    results = read_metrics(workdir, "training")
    assert (results["lesions"], results["lesions_trained_on"], results["intervals"]) == (14, 14, {})
    assert "warning: 14 of the 21 lesions" in run("evaluate", workdir, "--split=all", "--resamples=0")[2]


def test_corrections_are_fitted_on_validation_and_applied_on_request(run, trained, evaluated):
    status, _, err = run("evaluate", trained, "--split=all", "--correct=prior", "--resamples=0")
    assert status == 1
    assert "calibration.json is missing: run mobilenet-jax evaluate on the validation split first" in err
    for arguments in (["--correct=temperature"], ["--split=all", "--correct=prior"]):
        assert run("evaluate", evaluated, "--resamples=0", *arguments)[0] == 0
    plain, corrected = (read_metrics(evaluated, name)["metrics"] for name in ("validation", "validation-temperature"))
    assert plain["accuracy"] == corrected["accuracy"]
    assert plain["nll"] != corrected["nll"]
    assert (evaluated / "evaluation" / "all-prior" / "report.html").exists()
    assert run("evaluate", evaluated, "--resamples=0", "--split=all")[0] == 0
    plain, corrected = (
        read_predictions(evaluated / "evaluation" / name / "predictions.csv") for name in ("all", "all-prior")
    )
    stored = json.loads((evaluated / "calibration.json").read_text())
    del stored["fitted_to"]
    expected = Calibration(**{name: np.array(value) for name, value in stored.items()}).apply(plain, "prior")
    np.testing.assert_allclose(corrected.probabilities, expected.probabilities, atol=1e-5)
    status, _, err = run("evaluate", evaluated, "--split=all", "--correct=prior", "--resamples=0", "--tta=2")
    assert status == 1
    assert re.search(r"was fitted to best checkpoint, step \d+, 1 view, not to best .*, 2 views: run", err)


def test_a_run_validated_on_the_official_set_is_evaluated_on_it(run, tiny_isic, tmp_path):
    """Uses the archive's validation set, whose lesions are not published."""
    workdir = tmp_path / "run"
    train_and_evaluate(make_config(add_official_sets(tiny_isic), train__epochs=1, data__split="official"), workdir)
    status, _, err = run("evaluate", workdir, "--resamples=2")
    assert status == 0
    assert "It is not known which of these images show the same lesion" in err
    results = read_metrics(workdir, "validation")
    assert (results["images"], results["lesions"], results["lesions_trained_on"]) == (42, None, None)
    folder = workdir / "evaluation" / "validation"
    assert all(row["image"].startswith("ISIC_1") for row in read_table(folder / "predictions.csv"))
    shared = "also in the training set: <b>not known</b>, images: <b>0</b>."
    for words in ("samples by\nimage", shared, "isic (isic2018)"):
        assert words in (folder / "report.html").read_text()
    assert run("card", workdir)[0] == 0
    assert "not known which of them show the same lesion" in (workdir / "card" / "README.md").read_text()
    status, _, err = run("evaluate", workdir, "--split=training", "--resamples=0")
    assert status == 0
    results = read_metrics(workdir, "training")
    assert (results["images"], results["lesions"]) == (42, 21)
    table = workdir / "splits.csv"
    table.write_text(table.read_text().replace("ISIC_1000003", "ISIC_1999999"))
    assert "are not those of" in run("evaluate", workdir)[2]


def test_in_a_cross_validation_each_image_is_evaluated_by_the_run_that_held_it_out(run, data, tmp_path):
    for fold in (1, 2):
        train_and_evaluate(make_config(data, train__epochs=1, data__split=f"fold:{fold}/2"), tmp_path / str(fold))
    folds = [tmp_path / "1", tmp_path / "2"]
    assert "several workdirs require --folds, and --out" in run("evaluate", *folds)[2]
    assert run("evaluate", *folds, "--folds", f"--out={tmp_path / 'cv'}", "--resamples=0")[0] == 0
    rows = {row["image"]: row for row in read_table(tmp_path / "cv" / "predictions.csv")}
    assert len(rows) == 42
    for fold in folds:
        run("evaluate", fold, "--resamples=0")
        for row in read_table(fold / "evaluation" / "validation" / "predictions.csv"):
            assert row == rows[row["image"]]
    assert json.loads((tmp_path / "cv" / "metrics.json").read_text())["lesions_trained_on"] == 0
    elsewhere = ["--folds", f"--out={tmp_path / 'x'}"]
    assert "evaluate one run" in run("evaluate", *folds, *elsewhere, "--split=training")[2]
    assert "is not a separate fold" in run("evaluate", folds[0], folds[0], *elsewhere)[2]
    copy = shutil.copytree(folds[0], tmp_path / "copy")  # of a run on a copy of the images
    config = (copy / "config.json").read_text().replace(str(data), str(shutil.copytree(data, tmp_path / "images")))
    (copy / "config.json").write_text(config)
    assert "is not a separate fold" in run("evaluate", folds[0], copy, *elsewhere)[2]
    assert "--correct requires a single run" in run("evaluate", *folds, *elsewhere, "--split=all", "--correct=prior")[2]
    assert run("evaluate", *folds, "--folds", "--split=all", f"--out={tmp_path / 'mean'}", "--resamples=0")[0] == 0


def test_runs_on_given_sides_with_repeated_names_are_evaluated(run, tmp_path):
    """Skips a damaged image in training and in evaluation. The test folder lacks a class of the model."""
    names = [f"{side}/{name}/{i}.png" for side in ("Train", "val") for name in ("cat", "dog", "hen") for i in range(4)]
    test = [f"test/{name}/{i}.{suffix}" for name, suffix in (("cat", "webp"), ("hen", "png")) for i in range(6)]
    data = write_photographs(tmp_path / "data", [*names, *test])
    (data / "Train" / "dog" / "0.png").write_bytes(b"")
    changes = {"data__source": "folders", "model__num_classes": 3, "data__skip_damaged": True, "train__epochs": 1}
    train_and_evaluate(make_config(data, **changes), tmp_path / "run")
    assert len(read_table(tmp_path / "run" / "splits.csv")) == 23
    assert run("evaluate", tmp_path / "run", "--resamples=0")[0] == 0
    predictions = read_table(tmp_path / "run" / "evaluation" / "validation" / "predictions.csv")
    assert [row["image"] for row in predictions] == names[12:]
    results = read_metrics(tmp_path / "run", "validation")
    assert (results["lesions"], results["lesions_trained_on"]) == (None, None)
    options = ["--data", data / "test", "--split=all", "--resamples=5", f"--out={tmp_path / 'out'}"]
    assert run("evaluate", tmp_path / "run", *options)[0] == 0
    rows = read_table(tmp_path / "out" / "predictions.csv")
    assert [row["image"] for row in rows] == [name.removeprefix("test/") for name in test]
    assert [row["label"] for row in rows] == ["cat"] * 6 + ["hen"] * 6
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert metrics["dog.recall"] is None
    assert metrics["dog.images"] == 0


def test_bare_weights_are_evaluated_on_a_folder_as_the_run_that_they_come_from(run, workdir, data, tmp_path):
    """Their report knows neither the training images nor the configuration."""
    photos = tmp_path / "photos"
    assert run("prepare", data, photos, "--source=isic2018", "--to=folders")[0] == 0
    weights = tmp_path / "mine.safetensors"
    run("convert", workdir, weights)
    status, _, err = run("evaluate", weights, f"--data={photos}", "--resamples=2")
    assert status == 0
    assert "The images that these weights were trained on are not known" in err
    folder = tmp_path / "mine-evaluation" / "all-photos"
    assert not (folder / "curves.png").exists()
    report = (folder / "report.html").read_text()
    assert "Training configuration" not in report
    assert "frequency in training" not in report
    assert "also in the training set: <b>not known" in report
    results = json.loads((folder / "metrics.json").read_text())
    assert (results["images"], results["lesions"], results["lesions_trained_on"]) == (42, 21, None)
    assert (results["source"], results["data"], results["split"]) == ("folders", "photos", "all")
    run("evaluate", workdir, "--split=all", "--resamples=0")
    expected = read_metrics(workdir, "all")["metrics"]
    for name in ("accuracy", "nll", "macro_auc"):
        assert results["metrics"][name] == pytest.approx(expected[name], rel=1e-4)


def test_the_default_folder_is_named_after_the_weights_and_the_images(tmp_path, monkeypatch):
    def choose(model, data):
        options = {"tta": 1, "correct": None, "checkpoint": "best", "image_size": None}
        return _choose_folder(Namespace(models=[Path(model)], data=data, **options), "all").resolve()

    for name in ("mobilenet_0.25_160", "mobilenet_0.5_160"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert (
            choose(".", ".") == choose(f"../{name}", f"../{name}/") == tmp_path / f"{name}-evaluation" / f"all-{name}"
        )
    assert choose("w.safetensors", "../photos") == Path("w-evaluation").absolute() / "all-photos"


def test_class_names_are_given_for_weights_that_do_not_record_them(run, tmp_path):
    write_photos(tmp_path / "photos")
    weights = write_keras_2(tmp_path / "w.h5", Architecture(0.25, "small", 3, 1))
    options = [f"--data={tmp_path / 'photos'}", "--resamples=0"]
    assert "does not record the names of its 3 classes" in run("evaluate", weights, *options)[2]
    assert "--classes has 2 different names" in run("evaluate", weights, *options, "--classes=cat,dog")[2]
    assert run("evaluate", weights, *options, "--classes=horse,cat,dog")[0] == 0
    [row, *_] = read_table(tmp_path / "w-evaluation" / "all-photos" / "predictions.csv")
    assert list(row)[-3:] == ["horse", "cat", "dog"]
    assert row["label"] == "cat"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "does not record the folder of its images: specify it with --data=DIR"),
        (["--data={photos}", "--split=validation"], "has no training and validation split: use --split=all"),
        (["--data={photos}", "--correct=prior"], "--correct requires the workdir of a run"),
        (["--data={photos}", "--checkpoint=latest"], "not the workdir of a run, so it has no latest checkpoint"),
        (["--data={photos}", "--classes=A,B,C"], "records its class names, cat, dog, horse: leave out --classes"),
    ],
)
def test_impossible_evaluations_of_bare_weights_are_refused_in_one_line(run, tmp_path, arguments, message):
    PREPARATIONS["docs/python.md"](tmp_path)
    places = {"photos": tmp_path / "photos"}
    status, _, err = run("evaluate", tmp_path / "model.safetensors", *(a.format(**places) for a in arguments))
    assert status == 1
    assert err.count("\n") == 1
    assert message in err
    assert "only features" in run("evaluate", tmp_path / "backbone.safetensors", f"--data={tmp_path / 'photos'}")[2]


def test_a_recall_of_zero_is_a_warning_at_the_top_of_the_report(evaluated_once):
    report = (evaluated_once / "evaluation" / "validation" / "report.html").read_text()
    assert report.index("The recall is 0 for") < report.index("Not a medical device") < report.index("Summary")


def test_each_cell_of_a_table_has_the_name_of_its_column_for_phones(evaluated_once):
    report = (evaluated_once / "evaluation" / "validation" / "report.html").read_text()
    for column in ("recall", "precision", "spec. at 95% sens.", "95% interval", "frequency in training"):
        assert f'<td data-column="{column}">' in report
    assert report.count("<source media=") == 2, "learning curves and scores"


def remove_checkpoints(workdir, data):
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").mkdir()


def write_an_unknown_class(workdir, data):
    for name in ("MEL", "XYZ"):
        (workdir / "other" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (40, 40), (20 * i, 0, 0)).save(workdir / "other" / name / f"{name}{i}.jpg")
    return ["--data", workdir / "other", "--source=folders", "--split=all"]


def write_empty_folder(workdir, data):
    (workdir / "nothing").mkdir()
    return ["--data", workdir / "nothing"]


def truncate_config(workdir, data):
    (workdir / "config.json").write_text("{")


def write_half_the_labels(workdir, data):
    copy = shutil.copytree(data, workdir / "half")
    [truth] = copy.glob("*GroundTruth/*.csv")
    lines = truth.read_text().splitlines()
    truth.write_text("\n".join(lines[:20]) + "\n")
    return ["--data", copy]


def test_a_workdir_that_cannot_be_written_is_evaluated_without_corrections(run, workdir, tmp_path):
    (workdir / "calibration.json").mkdir()  # as root, tests can write to read-only files
    status, _, err = run("evaluate", workdir, "--resamples=0", f"--out={tmp_path / 'out'}")
    assert status == 0
    assert "warning: the corrections of the probabilities are not stored: " in err
    assert (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (remove_checkpoints, "no complete checkpoint: train it first"),
        (
            write_an_unknown_class,
            "lacks the classes XYZ: leave out their images, or give them one of the names MEL, NV, BCC, "
            "AKIEC, BKL, DF, VASC",
        ),
        (
            lambda w, d: [*write_an_unknown_class(w, d)[:-1], "--split=validation"],
            "--data specifies the new location of the run's own images (their table, if data.source is csv); "
            "--split=all evaluates all images of another folder",
        ),
        (write_empty_folder, "ISIC2018_Task3_Training_Input is missing"),
        (write_half_the_labels, "GroundTruth"),
        (lambda w, d: ["--out", w / "config.json" / "x"], "config.json/x: choose another --out"),
        (lambda w, d: ["--malignant=MEL,XYZ"], "--malignant names XYZ; the classes are MEL"),
        (lambda w, d: ["--source=sample", "--data", d], "specify the layout of"),
        (lambda w, d: ["--tta=9"], "have 1 to 8 views, not 9"),
        (lambda w, d: (w / "splits.csv").unlink(), "is not the workdir of a run: splits.csv is missing"),
        (truncate_config, "cannot read"),
    ],
)
def test_impossible_evaluations_are_refused_in_one_line(run, workdir, data, prepare, message):
    before = set(workdir.glob("evaluation/*"))
    status, out, err = run("evaluate", workdir, "--resamples=0", *(prepare(workdir, data) or []))
    assert status == 1
    assert set(workdir.glob("evaluation/*")) == before
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["--resamples=-1", "--batch-size=0", "--tta=0"])
def test_numbers_out_of_range_are_refused(run, workdir, option):
    assert run("evaluate", workdir, option)[0] == 2


def test_images_of_another_size_are_evaluated_and_predicted_consistently(workdir, data, tmp_path, run):
    assert run("evaluate", workdir, "--image-size=48", "--resamples=0")[0] == 0
    folder = workdir / "evaluation" / "validation-48px"
    assert json.loads((folder / "metrics.json").read_text())["weights"][0].endswith(", 48 x 48 pixels")
    table = read_predictions(folder / "predictions.csv")
    images = [str(next(data.rglob(f"{name}.jpg"))) for name in table.images]
    assert run("predict", workdir, *images, "--image-size=48", "--out", tmp_path / "p.csv")[0] == 0
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    of_image = {Path(row["image"]).stem: [float(row[name]) for name in table.class_names] for row in rows}
    np.testing.assert_allclose([of_image[name] for name in table.images], table.probabilities, atol=1e-6)
    plain = run("predict", workdir, *images, "--out", tmp_path / "q.csv")
    assert plain[0] == 0
    assert (tmp_path / "q.csv").read_text() != (tmp_path / "p.csv").read_text()
    status, _, err = run("predict", workdir, *images, "--correct=prior")  # was fitted to 48 x 48 pixels
    assert status == 1
    assert "48 x 48 pixels" in err


def test_the_articles_head_takes_images_of_one_size_only(data, tmp_path, run):
    architecture, metadata = Architecture(0.25, "article", 2, 1), Metadata((32, 32), classes=("cat", "dog"))
    weights = Weights("test", "", architecture, make_random_tensors(architecture), metadata)
    write_weights(tmp_path / "w.safetensors", weights)
    for command in (
        ["evaluate", tmp_path / "w.safetensors", "--data", data],
        ["predict", tmp_path / "w.safetensors", data],
    ):
        assert run(*command, "--image-size=48") == (
            1, "", "error: the head 'article' fits images of one size only\n",
        )  # fmt: skip
