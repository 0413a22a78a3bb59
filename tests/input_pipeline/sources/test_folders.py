import csv
import filecmp
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from input_pipeline.errors import DataError
from input_pipeline.sources.folders import write_folders
from input_pipeline.sources.isic import CLASS_NAMES, read_isic
from input_pipeline.sources.registry import read_examples
from input_pipeline.validation import validate_images
from mobilenet_jax.cli.main import main
from tests.helpers.runs import ROOT


@pytest.fixture
def folders(tiny_isic, tmp_path):
    write_folders(read_isic(tiny_isic), tmp_path / "folders")
    return tmp_path / "folders"


@pytest.fixture
def ham10000(tiny_isic, tmp_path):
    """The same 42 images in the layout of Kaggle's copy."""
    examples, folder = read_isic(tiny_isic), tmp_path / "ham"
    parts = [folder / f"HAM10000_images_part_{i}" for i in (1, 2)]
    for part in parts:
        part.mkdir(parents=True)
    with open(folder / "HAM10000_metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"])
        for i, (path, label, lesion) in enumerate(zip(examples.paths, examples.labels, examples.lesions, strict=True)):
            shutil.copy(path, parts[i % 2])
            name = path.rpartition("/")[2].removesuffix(".jpg")
            writer.writerow([lesion, name, CLASS_NAMES[label].lower(), "histo", "80.0", "male", "scalp"])
    return folder


def _by_name(examples):
    names = [path.rpartition("/")[2] for path in examples.paths]
    labels = [examples.class_names[label] for label in examples.labels]
    return dict(zip(names, zip(labels, examples.lesions.tolist(), strict=True), strict=True))


def test_every_layout_tells_the_same_of_the_same_images(tiny_isic, folders, ham10000):
    expected = _by_name(read_isic(tiny_isic))
    assert len(expected) == 42
    assert _by_name(read_examples("folders", folders)) == expected
    assert _by_name(read_examples("ham10000", ham10000)) == expected
    assert read_examples("ham10000", ham10000).class_names == CLASS_NAMES


def test_folders_need_neither_train_nor_lesions_and_take_any_class_names(tmp_path):
    for name in ("cat", "a dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{name} {i}.JPEG")
    examples = read_examples("folders", tmp_path)
    assert examples.class_names == ("a dog", "cat")
    assert examples.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(set(examples.lesions)) == 6


def _two_classes_empty(folder):
    shutil.rmtree(folder / "Train" / "MEL")
    (folder / "Train" / "MEL").mkdir()


def _no_image(folder):
    (folder / "Train" / "DF" / "notes.txt").touch()


def _folder_of_an_images_name(folder):
    (folder / "Train" / "DF" / "new.jpg").mkdir()


def _same_name(folder):
    shutil.copy(folder / "Train" / "MEL" / "ISIC_0000000.jpg", folder / "Train" / "DF" / "ISIC_0000000.jpeg")


def _no_lesion(folder):
    shutil.copy(folder / "Train" / "MEL" / "ISIC_0000000.jpg", folder / "Train" / "DF" / "new.jpg")


def _one_class(folder):
    for name in CLASS_NAMES[1:]:
        shutil.rmtree(folder / "Train" / name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_two_classes_empty, "MEL is empty"),
        (_no_image, "DF/notes.txt is no JPEG by its name"),
        (_folder_of_an_images_name, "DF/new.jpg is a folder: remove it"),
        (_same_name, r"holds 2 images of the name ISIC_0000000 \(DF/ISIC_0000000.jpeg, MEL/ISIC_0000000.jpg\)"),
        (_no_lesion, "DF/new.jpg has no row in .*lesions.csv"),
        (_one_class, "Train holds 1 class folders"),
        (shutil.rmtree, "no such data folder"),
    ],
)
def test_what_is_wrong_with_folders_is_named(folders, damage, message):
    damage(folders)
    with pytest.raises(DataError, match=message):
        read_examples("folders", folders)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",mel,", ",melanoma,", r"HAM10000_metadata.csv:2: unknown class 'melanoma'"),
        ("L00,ISIC_0000001", "L00,ISIC_0000000", "csv:3: ISIC_0000000 stands in line 2 already"),
        ("ISIC_0000002", "ISIC_9999999", "csv:4: there is no ISIC_9999999.jpg in HAM10000_images_part_1 or"),
        ("L00,ISIC_0000000", ",ISIC_0000000", "csv:2: no lesion_id for ISIC_0000000"),
        ("image_id", "image", "csv:1: the columns are .*: add the header"),
        ("male,scalp", "male", "csv:2: it has 6 cells, the header has 7"),
    ],
)
def test_what_is_wrong_with_the_table_is_named_by_line(ham10000, old, new, message):
    table = ham10000 / "HAM10000_metadata.csv"
    content = table.read_text()
    assert old in content
    table.write_text(content.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        read_examples("ham10000", ham10000)


def test_all_that_is_wrong_with_folders_is_named_at_once(folders):
    _no_image(folders)
    _folder_of_an_images_name(folders)
    _same_name(folders)
    table = folders / "lesions.csv"
    table.write_text(
        table.read_text().replace("ISIC_0000010,L12", "ISIC_0000010,").replace("_0000041,L62", "_0000041,L00")
    )
    with pytest.raises(DataError, match="7 things are wrong with the data, the first is: ") as error:
        read_examples("folders", folders)
    assert [fault.removeprefix(f"{folders}/").rpartition(": ")[0] for fault in error.value.details] == [
        "Train/DF/new.jpg is a folder",
        "Train/DF/notes.txt is no JPEG by its name",
        "Train holds 2 images of the name ISIC_0000000 (DF/ISIC_0000000.jpeg, MEL/ISIC_0000000.jpg)",
        "lesions.csv:12: no lesion_id for ISIC_0000010",
        "MEL/ISIC_0000000.jpg: lesion L00 is MEL here and DF at DF/ISIC_0000000.jpeg",
        "MEL/ISIC_0000001.jpg: lesion L00 is MEL here and DF at DF/ISIC_0000000.jpeg",
        "VASC/ISIC_0000041.jpg: lesion L00 is VASC here and DF at DF/ISIC_0000000.jpeg",
    ]


def test_all_that_is_wrong_with_the_table_and_with_one_row_is_named_at_once(ham10000):
    table = ham10000 / "HAM10000_metadata.csv"
    lines = table.read_text().splitlines()
    lines[1] = ",ISIC_9999999,melanoma,histo,80.0,male,scalp"
    lines[4] = lines[3]
    lines[9] += ",more"
    table.write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        read_examples("ham10000", ham10000)
    assert [fault.removeprefix(f"{ham10000}/").partition(": ")[0] for fault in error.value.details] == [
        *["HAM10000_metadata.csv:2"] * 3,
        "HAM10000_metadata.csv:5",
        "HAM10000_metadata.csv:10",
        f"HAM10000_images_part_1/ISIC_0000000.jpg has no row in {table}",
        f"HAM10000_images_part_2/ISIC_0000003.jpg has no row in {table}",
    ]


def test_an_image_that_no_row_names_is_named(ham10000):
    Image.new("RGB", (8, 8)).save(ham10000 / "HAM10000_images_part_2" / "extra.jpg")
    with pytest.raises(DataError, match=r"extra\.jpg has no row in"):
        read_examples("ham10000", ham10000)


def _prepare(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mobilenet-jax", "prepare", *map(str, arguments)])
    main()


def test_prepare_prints_the_classes_and_leaves_whole_folders(monkeypatch, capsys, tiny_isic, tmp_path):
    _prepare(monkeypatch, tiny_isic, tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(tmp_path / "out")
    assert lines[1].split() == ["class", "images", "lesions"]
    assert lines[2].split() == ["MEL", "6", "3"]
    assert lines[-1].split() == ["all", "42", "21"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"Train", "lesions.csv"}
    with pytest.raises(SystemExit):
        _prepare(monkeypatch, tiny_isic, tmp_path / "out")
    assert capsys.readouterr().err == f"error: {tmp_path / 'out'} exists: choose another name, or remove it\n"


def test_a_copy_that_was_stopped_goes_on(monkeypatch, tiny_isic, tmp_path):
    examples, copied = read_isic(tiny_isic), []
    copyfile = shutil.copyfile

    def copy(source, target):
        if len(copied) == 20:
            copied.append("stopped")
            target.write_bytes(b"half")
            raise KeyboardInterrupt
        copied.append(copyfile(source, target))

    monkeypatch.setattr("shutil.copyfile", copy)
    with pytest.raises(KeyboardInterrupt):
        write_folders(examples, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_folders(examples, tmp_path / "out")
    assert len(copied) == 43, "none of the first twenty again"
    found = read_examples("folders", tmp_path / "out")
    assert _by_name(found) == _by_name(examples)
    validate_images(found)


def test_what_another_copy_left_is_not_taken_over(tiny_isic, tmp_path):
    for name in ("MEL", "a class of its own"):
        left = tmp_path / ".out.unfinished" / "Train" / name
        left.mkdir(parents=True)
        (left / "other.jpg").write_bytes(b"of another download")
    write_folders(read_isic(tiny_isic), tmp_path / "out")
    assert _by_name(read_examples("folders", tmp_path / "out")) == _by_name(read_isic(tiny_isic))


def test_folders_of_images_of_which_a_class_has_none_can_be_read(tiny_isic, tmp_path):
    examples = read_isic(tiny_isic)
    write_folders(examples.take(np.flatnonzero(examples.labels != 5)), tmp_path / "out")
    assert read_examples("folders", tmp_path / "out").class_names == ("AKIEC", "BCC", "BKL", "MEL", "NV", "VASC")


def test_a_copy_killed_at_any_moment_leaves_nothing_under_the_name_and_ends_whole(tiny_isic, tmp_path):
    """Of the file it was at, a part may be there."""
    examples, out = read_isic(tiny_isic), tmp_path / "out"
    code = """
import os, shutil, signal, sys
from input_pipeline.sources.folders import write_folders
from input_pipeline.sources.isic import read_isic
copy, number = shutil.copyfile, 0
def copy_and_die(source, target):
    global number
    number += 1
    copy(source, target)
    if number == 15:
        os.truncate(target, 100)
        os.kill(os.getpid(), signal.SIGKILL)
shutil.copyfile = copy_and_die
write_folders(read_isic(sys.argv[1]), sys.argv[2])
"""
    for done in (15, 29):
        process = subprocess.run([sys.executable, "-c", code, str(tiny_isic), str(out)], cwd=ROOT)
        assert process.returncode == -signal.SIGKILL
        assert not out.exists()
        assert len(list((tmp_path / ".out.unfinished").glob("Train/*/*.jpg"))) == done
    write_folders(examples, out)
    assert _by_name(read_examples("folders", out)) == _by_name(examples)
    for path in examples.paths:
        [copied] = out.rglob(path.rpartition("/")[2])
        assert filecmp.cmp(path, copied, shallow=False)
    assert not (tmp_path / ".out.unfinished").exists()
