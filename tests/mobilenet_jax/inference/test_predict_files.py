import csv
import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from input_pipeline.sources.isic import INPUT
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.inference.classifier import Classifier
from mobilenet_jax.inference.grad_cam import format_explanation
from mobilenet_jax.inference.predict_files import (
    classify_files,
    find_images,
    find_root,
    leave_out_pictures,
    make_explainer,
    name_image,
    write_predictions,
)
from mobilenet_jax.weights.load import read_weights

IMAGES = INPUT.format("Training")


def test_folders_and_patterns_stand_for_their_visible_images(tmp_path):
    for name in ("a/1.jpg", "a/b/2.JPG", "a/._1.jpg", "a/.hidden/3.jpg", "4 ü.png", "5.webp", "a/text.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    expected = [str(tmp_path / name) for name in ("4 ü.png", "5.webp", "a/1.jpg", "a/b/2.JPG")]
    assert find_images([str(tmp_path)]) == expected
    assert find_images([str(tmp_path / "*")]) == expected
    assert find_images([str(tmp_path / "**" / "*.jpg")]) == [expected[2]]


def test_pictures_of_an_earlier_prediction_are_left_out(tmp_path, caplog):
    kept = [str(tmp_path / name) for name in ("1.png", "1.cat.png", "out/2.png", "out/2.bird.png", "out/3.dog.png")]
    pictures = [str(tmp_path / "out" / name) for name in ("1.cat.png", "of/2.dog.png")]
    mark = PngInfo()
    mark.add_text("Software", "mobilenet-jax predict --explain")
    for path in (*kept, *pictures):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # The last one to be kept has a name like an explanation's.
        Image.new("RGB", (8, 8)).save(path, pnginfo=None if path == kept[-1] else mark)
    assert leave_out_pictures([*kept, *pictures], tmp_path / "out", ("cat", "dog")) == kept
    assert f"leaving out 2 pictures that --explain wrote to {tmp_path / 'out'}" in caplog.text
    with pytest.raises(EvaluationError, match=r"all images are pictures that --explain wrote"):
        leave_out_pictures(pictures, tmp_path / "out", ("cat", "dog"))


def test_an_image_of_the_user_is_not_replaced_by_an_explanation(trained, data, tmp_path):
    path = shutil.copy(min((data / IMAGES).iterdir()), tmp_path / "1.jpg")
    mine = shutil.copy(path, tmp_path / "1.MEL.png")
    before = Path(mine).read_bytes()
    classifier = Classifier(read_weights(trained))
    explain = make_explainer(classifier, [str(path)], tmp_path, class_name="MEL")
    [batch] = classify_files(classifier, [str(path)], batch_size=1)
    with pytest.raises(EvaluationError, match=r"1.MEL.png would be replaced by an explanation: choose another"):
        explain(batch)
    assert Path(mine).read_bytes() == before
    Path(mine).unlink()
    for _ in range(2):
        explain(batch)
    assert leave_out_pictures([str(path), str(mine)], tmp_path, classifier.class_names) == [str(path)]


def test_a_folder_without_permission_is_reported(tmp_path, monkeypatch):
    for name in ("a/1.jpg", "secret/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    scandir = os.scandir

    def refuse(path):  # as root, tests can read every folder
        if Path(path).name == "secret":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(EvaluationError, match=r"the folder .*secret cannot be read \(Permission denied\)"):
        find_images([str(tmp_path)])


def test_a_batch_is_not_larger_than_the_number_of_images(trained, data):
    path = str(min((data / IMAGES).iterdir()))
    [batch] = classify_files(Classifier(read_weights(trained)), [path], batch_size=10**9)
    assert batch.paths == [path]


def test_images_in_a_folder_that_cannot_be_read_are_warned_of(tmp_path, caplog):
    for name in ("1.jpg", "2.HEIC", "3.avif", ".4.heic", "5.txt"):
        (tmp_path / name).touch()
    assert find_images([str(tmp_path)]) == [str(tmp_path / "1.jpg")]
    assert caplog.messages == [
        "leaving out 2 of 3 images, whose formats cannot be read; convert them to JPEG or PNG, such as "
        f"{tmp_path / '2.HEIC'}"
    ]


def test_linked_folders_are_searched_and_the_files_of_systems_are_not(tmp_path):
    for name in (
        "a/1.jpg",
        "elsewhere/2.jpg",
        "a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
        "a/.3.jpg",
        "a/$RECYCLE.BIN/4.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "cycle").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "current").symlink_to("v3")
    (tmp_path / "a" / "v3").mkdir()
    (tmp_path / "a" / "v3" / "5.jpg").touch()
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    expected = [str(tmp_path / "a" / name) for name in ("1.jpg", "linked/2.jpg", "v3/5.jpg")]
    assert find_images([str(tmp_path / "a")]) == expected


def test_images_keep_the_order_of_the_arguments_without_duplicates(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()
    monkeypatch.chdir(tmp_path)
    assert find_images(["./b.jpg", str(tmp_path), "**", "./**"]) == [
        "./b.jpg",
        *(str(tmp_path / f"{n}.jpg") for n in "ac"),
    ]
    arguments = [str(tmp_path / name) for name in ("c.jpg", "missing.jpg", "a.jpg", "*.jpg")]
    assert [os.path.basename(path) for path in find_images(arguments)] == ["c.jpg", "missing.jpg", "a.jpg", "b.jpg"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_that_viewers_rotate_are_warned_of(trained, data, tmp_path, caplog, suffix):
    paths = [*sorted(map(str, (data / IMAGES).iterdir()))[:1], str(tmp_path / f"undefined.{suffix}")]
    paths.append(str(tmp_path / f"turned.{suffix}"))
    for path, orientation in zip(paths[1:], (0, 6), strict=True):
        exif = Image.Exif()
        exif[274] = orientation
        with Image.open(paths[0]) as image:
            image.save(path, exif=exif)
    batches = list(classify_files(Classifier(read_weights(trained)), paths[::-1], batch_size=2))
    assert [len(batch.paths) for batch in batches] == [2, 1]
    warning = (
        f"1 of 3 images, such as {paths[2]}, are marked as rotated (EXIF) and were classified as stored, as in "
        "training; for predictions of the images as displayed, rotate their pixels"
    )
    assert caplog.messages == ([warning] if suffix != "tif" else [])  # Pillow rotates TIFF images


def test_an_argument_without_images_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match=r"no image file matches .*x\*\.png"):
        find_images([str(tmp_path / "x*.png")])


def test_unreadable_files_are_reported_and_skipped(trained, data, tmp_path):
    good = sorted(map(str, (data / IMAGES).iterdir()))[:3]
    (tmp_path / "broken.jpg").write_text("not an image")
    broken = str(tmp_path / "broken.jpg")
    classifier = Classifier(read_weights(trained))
    batches = list(classify_files(classifier, [good[0], broken, good[1], good[2]], batch_size=2))
    assert [batch.paths for batch in batches] == [[good[0]], good[1:]]
    assert [len(batch.faults) for batch in batches] == [1, 0]
    assert batches[0].faults[0].startswith(f"{broken} cannot be read")
    expected = np.concatenate([batch.probabilities for batch in classify_files(classifier, good, batch_size=3)])
    np.testing.assert_allclose(np.concatenate([batch.probabilities for batch in batches]), expected, rtol=1e-4)


def test_an_earlier_table_is_kept_if_no_file_can_be_read(trained, tmp_path):
    (tmp_path / "p.csv").write_text("an earlier table")
    faults = write_predictions(Classifier(read_weights(trained)), [str(tmp_path / "none.jpg")], tmp_path / "p.csv")
    assert len(faults) == 1
    assert (tmp_path / "p.csv").read_text() == "an earlier table"
    assert os.listdir(tmp_path) == ["p.csv"]


def test_two_images_with_the_same_name_are_refused_in_the_isic_format_only(trained, data, tmp_path):
    path = min((data / IMAGES).iterdir())
    twin = shutil.copy(path, tmp_path)
    classifier, paths = Classifier(read_weights(trained)), [str(path), str(twin)]
    with pytest.raises(EvaluationError, match="share a name"):
        write_predictions(classifier, paths, tmp_path / "p.csv", table_format="isic")
    for table_format in ("csv", "jsonl"):
        assert not write_predictions(classifier, paths, tmp_path / "p", table_format=table_format)


def test_images_are_named_relative_to_the_folder_that_holds_the_arguments(tmp_path, monkeypatch):
    for name in ("a/b/1.jpg", "a/c/1.jpg", "d/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)

    def name_images(*arguments):
        return [name_image(path, find_root(arguments)) for path in find_images(arguments)]

    assert name_images("a") == name_images("a/*") == name_images("a/**/*.jpg") == ["b/1.jpg", "c/1.jpg"]
    assert name_images(str(tmp_path / "a")) == ["b/1.jpg", "c/1.jpg"]
    assert name_images("a/b") == name_images("a/b/1.jpg") == ["1.jpg"]
    assert name_images("a/b/1.jpg", "d") == ["a/b/1.jpg", "d/2.jpg"]
    assert name_images("d/2.jpg", "a/c/1.jpg") == ["d/2.jpg", "a/c/1.jpg"]
    Path("[a]").mkdir()
    Path("[a]", "3.jpg").touch()
    monkeypatch.chdir("[a]")
    assert name_images("*.jpg") == ["3.jpg"]


def test_pictures_that_would_have_the_same_name_are_refused(trained, tmp_path):
    paths = [str(tmp_path / name) for name in ("a/1.jpg", "a/1.png")]
    with pytest.raises(EvaluationError, match="share a name"):
        make_explainer(Classifier(read_weights(trained)), paths, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("explained", ["predicted", "another"])
def test_each_picture_explains_its_own_image_and_class(trained, data, tmp_path, monkeypatch, explained):
    drawn = []

    def draw(pixels, cam, title):
        drawn.append((pixels, cam, title))
        return Image.fromarray(pixels)

    folder = "mobilenet_jax.inference.grad_cam"
    monkeypatch.setattr(f"{folder}.make_grad_cam", lambda _: lambda pixels, y: list(zip(pixels, y, strict=True)))
    monkeypatch.setattr(f"{folder}.draw_explanation", draw)
    classifier, paths = Classifier(read_weights(trained)), sorted(map(str, (data / IMAGES).iterdir()))[:42:6]
    [batch] = classify_files(classifier, paths, batch_size=8)
    class_name = classifier.class_names[batch.probabilities.sum(0).argmin()] if explained == "another" else None
    explain = make_explainer(classifier, paths, tmp_path, class_name=class_name)
    explain(batch)
    for i, (pixels, cam, title) in enumerate(drawn):
        best = batch.probabilities[i].argmax()
        label = best if class_name is None else classifier.class_names.index(class_name)
        np.testing.assert_array_equal(pixels, batch.pixels[i])
        np.testing.assert_array_equal(cam[0], batch.pixels[i])
        assert cam[1] == label
        names, row = classifier.class_names, batch.probabilities[i]
        assert title == format_explanation(names[label], row[label], names[best], row[best])
    assert len(drawn) == len(paths)


def test_pictures_of_different_images_and_classes_have_different_names(trained, data, tmp_path):
    weights, names = read_weights(trained), ("nevus", "atypical_nevus", "c", "d", "e", "f", "g")
    classifier = Classifier(replace(weights, metadata=replace(weights.metadata, classes=names)))
    path = min((data / IMAGES).iterdir())
    paths = [str(shutil.copy(path, tmp_path / f"{stem}.jpg")) for stem in ("1", "1_atypical")]
    for path, name in zip(paths, ("atypical_nevus", "nevus"), strict=True):
        explain = make_explainer(classifier, [path], tmp_path / "x", class_name=name)
        write_predictions(classifier, [path], tmp_path / "p.csv", explain=explain)
    assert len(list((tmp_path / "x").iterdir())) == 2


def test_hostile_class_names_neither_run_in_tables_nor_lead_pictures_out_of_their_folder(trained, data, tmp_path):
    weights = read_weights(trained)
    names = ("/../../escaped", "=cmd|' /C calc'!A0", "..", "a" * 300, "CON:", "", "é")
    weights = replace(weights, metadata=replace(weights.metadata, classes=names))
    classifier, out = Classifier(weights), tmp_path / "a" / "b"
    out.mkdir(parents=True)
    paths = [str(path) for path in sorted((data / IMAGES).iterdir())[:2]]
    for number, name in enumerate(names):
        (out / str(number)).mkdir()
        explain = make_explainer(classifier, paths, out / str(number) / "pictures", class_name=name)
        write_predictions(classifier, paths, out / str(number) / "p.csv", explain=explain)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) == 3 * (number + 1)
        assert all(path.is_relative_to(out) for path in files)
    with open(out / "0" / "p.csv", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=cmd|' /C calc'!A0" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]
