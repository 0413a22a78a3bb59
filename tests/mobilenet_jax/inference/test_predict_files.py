"""`predict`, run as a user runs it; what the classifier computes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from input_pipeline.sources.isic import CLASS_NAMES as NAMES
from mobilenet_jax.inference.classifier import Classifier, view
from mobilenet_jax.weights.load import read_weights
from tests.helpers.runs import read_table, with_devices


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
    rows = read_table(tmp_path / "p.csv")
    assert tuple(rows[0]) == ("image", *NAMES)
    assert [row["image"] for row in rows] == sorted(p.stem for p in images.iterdir())
    for row in rows:
        assert sum(float(row[name]) for name in NAMES) == pytest.approx(1, abs=1e-5)
    assert run("evaluate", trained, "--split=all", "--resamples=0", f"--out={tmp_path / 'e'}")[0] == 0
    for row, same in zip(rows, read_table(tmp_path / "e" / "predictions.csv"), strict=True):
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
    assert [row["image"] for row in read_table(tmp_path / "p.csv")] == ["4 ü", "1", "2"]
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
    for row, same in zip(read_table(tmp_path / "1"), read_table(tmp_path / "4"), strict=True):
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
