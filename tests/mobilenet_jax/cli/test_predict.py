import json
import os
import shutil

import pytest
from PIL import Image

from input_pipeline.sources.isic import CLASS_NAMES as NAMES
from input_pipeline.sources.isic import INPUT
from mobilenet_jax.inference.classifier import Classifier
from tests.helpers.runs import read_table

IMAGES = INPUT.format("Training")


def test_predict_writes_the_table_of_the_challenge_on_request(run, trained, data, tmp_path):
    (tmp_path / "broken.jpg").write_text("no image")
    arguments = [data / IMAGES, tmp_path / "*.jpg", f"--out={tmp_path / 'p.csv'}", "--format=isic"]
    status, out, err = run("predict", trained, *arguments)
    assert status == 1
    assert err.startswith("error: 1 of 43 images skipped, the last: ")
    assert f"{tmp_path / 'broken.jpg'} cannot be read (it is not an image in one of the formats JPEG, " in err
    assert err.count("\n") == 1
    assert out == f"{tmp_path / 'p.csv'}: 42 images\n"
    rows = read_table(tmp_path / "p.csv")
    assert tuple(rows[0]) == ("image", *NAMES)
    assert [row["image"] for row in rows] == sorted(p.stem for p in (data / IMAGES).iterdir())
    for row in rows:
        assert sum(float(row[name]) for name in NAMES) == pytest.approx(1, abs=1e-5)
    assert run("evaluate", trained, "--split=all", "--resamples=0", f"--out={tmp_path / 'e'}")[0] == 0
    for row, evaluated in zip(rows, read_table(tmp_path / "e" / "predictions.csv"), strict=True):
        assert [float(row[n]) for n in NAMES] == pytest.approx([float(evaluated[n]) for n in NAMES], rel=1e-4)


def test_predict_writes_the_folder_and_the_predicted_class_of_each_image(run, trained, data, tmp_path):
    for folder, path in zip("ab", sorted((data / IMAGES).iterdir())[5:7], strict=True):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        shutil.copy(path, tmp_path / "photos" / folder / "1.jpg")
    assert run("predict", trained, tmp_path / "photos", f"--out={tmp_path / 'p.csv'}")[0] == 0
    rows = read_table(tmp_path / "p.csv")
    assert tuple(rows[0]) == ("image", "predicted", *NAMES)
    assert [row["image"] for row in rows] == ["a/1.jpg", "b/1.jpg"]
    for row in rows:
        assert row["predicted"] == max(NAMES, key=lambda name: float(row[name]))


def test_predict_finds_images_in_folders_that_a_pattern_matches(run, trained, data, tmp_path):
    """Skips hidden files, reports names that are not UTF-8, and follows a link as destination."""
    image = min((data / IMAGES).iterdir())
    for name in ("a/1.jpg", "a/b/2.JPG", "a/._1.jpg", "a/.hidden/3.jpg", "4 ü.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / "photos" / name)
    shutil.copy(image, os.fsencode(tmp_path / "photos") + b"/m\xe9l.jpg")
    (tmp_path / "photos" / "folder.jpg").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("an earlier table")
    status, _, err = run("predict", trained, tmp_path / "photos" / "*", f"--out={tmp_path / 'link.csv'}")
    assert status == 1
    assert err.startswith("error: 1 of 4 images skipped, the last: ")
    assert "its name is not UTF-8" in err
    assert [row["image"] for row in read_table(tmp_path / "p.csv")] == ["4 ü.png", "a/1.jpg", "a/b/2.JPG"]
    assert (tmp_path / "link.csv").is_symlink()
    assert run("predict", trained, tmp_path / "photos" / "a")[0] == 0


def test_predict_prints_the_five_most_probable_classes_without_out(run, trained, data):
    first, second = sorted((data / IMAGES).iterdir())[:2]
    status, out, _ = run("predict", trained, first, second)
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 12
    assert (lines[0], lines[6]) == (str(first), str(second))
    indices, probabilities, names = zip(*(line.split() for line in lines[1:6]), strict=True)
    assert [NAMES[int(index)] for index in indices] == list(names)
    assert sorted(map(float, probabilities), reverse=True) == list(map(float, probabilities))


def test_predict_reads_the_chosen_checkpoint(run, trained, data, monkeypatch):
    chosen = []
    monkeypatch.setattr(
        "mobilenet_jax.weights.load.read_weights", lambda path, checkpoint: chosen.append(checkpoint) or 1 / 0
    )
    for name in ("best", "latest"):
        with pytest.raises(ZeroDivisionError):
            run("predict", trained, data, f"--checkpoint={name}")
    assert chosen == ["best", "latest"]


def test_names_of_files_that_cannot_be_read_do_not_control_the_terminal(run, trained, tmp_path):
    for name in ("a\x1b[31m.jpg", "b\x07.jpg"):
        (tmp_path / name).write_text("no image")
    status, _, err = run("predict", trained, tmp_path)
    assert status == 1
    assert "a?[31m.jpg cannot be read" in err
    assert not {"\x1b", "\x07"} & set(err)


def test_a_workdir_may_hold_files_that_are_not_the_runs(run, workdir, data):
    (workdir / "latest").symlink_to(workdir / "checkpoints")
    assert run("predict", workdir, min((data / IMAGES).iterdir()))[0] == 0


def test_predict_writes_json_lines_in_the_order_of_its_arguments(run, trained, data, tmp_path):
    chosen = sorted((data / IMAGES).iterdir())[5:2:-1]
    assert run("predict", trained, *chosen, "--out", tmp_path / "p.jsonl", "--format=jsonl", "--tta=2")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == [str(path) for path in chosen]
    for line in lines:
        assert line["predicted"] == max(line["probabilities"], key=line["probabilities"].get)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/empty"], "{tmp}/empty holds no image file"),
        (["{tmp}/text"], "{tmp}/text holds no image file"),
        (["{tmp}/*.bmp"], "no image file matches {tmp}/*.bmp"),
        ([""], "an argument is empty: specify files or folders"),
        (["{images}", "--out={tmp}/none/p.csv"], "cannot write {tmp}/none/p.csv: the folder {tmp}/none does not exist"),
        (["{images}", "--out={tmp}/a.JPG"], "cannot write {tmp}/a.JPG: this is the name of an image, not of a table"),
        (["{images}", "--out={tmp}/text"], "cannot write {tmp}/text: it exists and is not a regular file"),
        (["{images}", "--out=."], ": it exists and is not a regular file"),
        (["{images}", "--out=/dev/null"], "cannot write /dev/null: it exists and is not a regular file"),
        (["{tmp}/none.jpg", "--out={tmp}/p.csv"], "1 of 1 images skipped"),
        (["{images}", "--out={tmp}/p.csv", "--explain={tmp}/x", "--explain-class=XYZ"], "--explain-class is XYZ"),
        (["{images}", "--explain-class=MEL"], "--explain-class is a class to explain: add --explain=DIR"),
        (
            ["{images}", "--out={tmp}/p.csv", "--explain={tmp}/text/a.txt"],
            "a.txt, which is not a folder: choose another name",
        ),
        (["{images}", "{tmp}/twin", "--out={tmp}/p.csv", "--format=isic"], "share a name"),
        (["{images}", "--correct=prior"], "calibration.json is missing"),
    ],
)
def test_impossible_predictions_are_refused_in_one_line(run, trained, data, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("text")
    (tmp_path / "twin").mkdir()
    shutil.copy(min((data / IMAGES).iterdir()), tmp_path / "twin")
    places = {"tmp": tmp_path, "images": data / IMAGES}
    status, _, err = run("predict", trained, *(a.format(**places) for a in arguments))
    assert status == 1
    assert err.count("\n") == 1
    assert message.format(**places) in err
    assert not (tmp_path / "p.csv").exists()


def test_an_interrupted_command_keeps_an_earlier_table(run, trained, data, tmp_path, monkeypatch):
    (tmp_path / "p.csv").write_text("an earlier table")
    compute_probabilities, calls = Classifier.compute_probabilities, []

    def fail_in_the_third_batch(self, *arguments):
        calls.append(1)
        if len(calls) > 2:
            raise OSError("the disk is gone")
        return compute_probabilities(self, *arguments)

    monkeypatch.setattr(Classifier, "compute_probabilities", fail_in_the_third_batch)
    assert run("predict", trained, data / IMAGES, f"--out={tmp_path / 'p.csv'}", "--batch-size=8")[0] == 1
    assert (tmp_path / "p.csv").read_text() == "an earlier table"
    assert [p.name for p in tmp_path.iterdir()] == ["p.csv"]


def test_explanations_are_written_as_pictures_next_to_their_images(run, trained, data, tmp_path):
    chosen = sorted((data / IMAGES).iterdir())[:2]
    options = ["--out", tmp_path / "p.csv", "--explain", tmp_path / "explanations", "--explain-class=DF"]
    assert run("predict", trained, *chosen, *options)[0] == 0
    assert {p.name for p in (tmp_path / "explanations").iterdir()} == {f"{p.stem}.DF.png" for p in chosen}
    for path in chosen:
        with Image.open(tmp_path / "explanations" / f"{path.stem}.DF.png") as picture:
            assert picture.width > 2 * 448
            assert picture.height > 448


def test_explanations_do_not_require_a_table_and_keep_the_folders(run, trained, data, tmp_path):
    for folder in "ab":
        (tmp_path / "photos" / folder).mkdir(parents=True)
        shutil.copy(min((data / IMAGES).iterdir()), tmp_path / "photos" / folder / "1.jpg")
    status, out, _ = run("predict", trained, tmp_path / "photos", "--explain", tmp_path / "x")
    assert status == 0
    predicted = out.splitlines()[1].split()[2]
    pictures = sorted(p.relative_to(tmp_path / "x").as_posix() for p in (tmp_path / "x").rglob("*.png"))
    assert pictures == [f"{folder}/1.{predicted}.png" for folder in "ab"]
