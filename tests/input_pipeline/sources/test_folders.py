import filecmp
import os
import shutil
import signal
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline.errors import DataError
from input_pipeline.image_files import IMAGE_SUFFIXES
from input_pipeline.sources.folders import read_folders, write_folders
from input_pipeline.sources.isic import CLASS_NAMES, read_isic
from input_pipeline.sources.registry import read_valid_examples
from input_pipeline.validation import validate_images
from tests.helpers.datasets import index_by_name
from tests.helpers.runs import ROOT


@pytest.fixture
def folders(tiny_isic, tmp_path):
    write_folders(read_isic(tiny_isic), tmp_path / "folders")
    return tmp_path / "folders"


def test_written_folders_hold_the_same_examples(tiny_isic, folders):
    expected = index_by_name(read_isic(tiny_isic))
    assert len(expected) == 42
    assert index_by_name(read_folders(folders)) == expected


def test_train_folder_and_lesions_are_optional_and_class_names_are_arbitrary(tmp_path):
    for name in ("cat", "a dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{name} {i}.JPEG")
    examples = read_folders(tmp_path)
    assert examples.class_names == ("a dog", "cat")
    assert examples.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(set(examples.lesions)) == 6


def _empty_a_class(folder):
    shutil.rmtree(folder / "Train" / "MEL")
    (folder / "Train" / "MEL").mkdir()


def _add_text_file(folder):
    (folder / "Train" / "DF" / "notes.txt").touch()


def _add_folder_named_like_an_image(folder):
    (folder / "Train" / "DF" / "new.jpg").mkdir()


def _repeat_a_name(folder):
    shutil.copy(folder / "Train" / "MEL" / "ISIC_0000000.jpg", folder / "Train" / "DF" / "ISIC_0000000.jpeg")


def _add_image_without_lesion(folder):
    shutil.copy(folder / "Train" / "MEL" / "ISIC_0000000.jpg", folder / "Train" / "DF" / "new.jpg")


def _remove_all_classes(folder):
    for name in CLASS_NAMES:
        shutil.rmtree(folder / "Train" / name)


def test_lesions_are_named_by_path_by_file_name_or_without_suffix(tmp_path):
    names = ["cat/1.jpg", "cat/2.jpg", "dog/3.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "lesions.csv").write_text("image,lesion_id\ncat/1.jpg,a\n2.jpg,a\n3,b\n")
    assert read_folders(tmp_path).lesions.tolist() == ["a", "a", "b"]
    (tmp_path / "lesions.csv").write_text("image,lesion_id\ncat/1,a\ncat/2.jpg,a\ndog/3,b\n")
    assert read_folders(tmp_path).lesions.tolist() == ["a", "a", "b"]
    (tmp_path / "cat/1.jpg.png").touch()
    (tmp_path / "lesions.csv").write_text("image,lesion_id\ncat/1.jpg,a\ncat/1.jpg.png,b\n2,b\n3,c\n")
    assert read_folders(tmp_path).lesions.tolist() == ["a", "b", "b", "c"]
    (tmp_path / "cat/1.jpg.png").unlink()
    (tmp_path / "lesions.csv").write_text("image , lesion_id\ncat/1.jpg , a\n2.jpg,a \n 3,b\n")
    assert read_folders(tmp_path).lesions.tolist() == ["a", "a", "b"]
    (tmp_path / "lesions.csv").write_text("image;lesion_id\n1.jpg;a\n")
    with pytest.raises(DataError, match=r"lesions\.csv:1: the first columns are .* separated by commas"):
        read_folders(tmp_path)
    (tmp_path / "lesions.csv").write_text("image,lesion_id\ncat/1.jpg,a\n2.jpg,a\n2,c\n3,b\n")
    with pytest.raises(DataError, match=r"several lesions for cat/2\.jpg \(2, 2\.jpg\): keep one row"):
        read_folders(tmp_path)
    (tmp_path / "Train").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / name).rename(tmp_path / "Train" / name)
    (tmp_path / "lesions.csv").write_text("image,lesion_id\nTrain/cat/1.jpg,a\nTrain/cat/2,a\ndog/3.jpg,b\n")
    assert read_folders(tmp_path).lesions.tolist() == ["a", "a", "b"], "relative to either folder"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_empty_a_class, "MEL is empty"),
        (_add_text_file, r"DF/notes.txt is not an image file \(.bmp, .gif, .*\): move it"),
        (_add_folder_named_like_an_image, "DF/new.jpg is a folder in a class folder"),
        (_repeat_a_name, r"holds 2 images named ISIC_0000000 \(DF/ISIC_0000000.jpeg, MEL/ISIC_0000000.jpg\)"),
        (_add_image_without_lesion, "DF/new.jpg has no row in .*lesions.csv"),
        (_remove_all_classes, "Train holds no class folders, such as .*Train/cat"),
        (shutil.rmtree, "no such data folder"),
    ],
)
def test_faults_in_folders_are_reported_with_their_place(folders, damage, message):
    damage(folders)
    with pytest.raises(DataError, match=message):
        read_folders(folders)


def test_all_faults_in_folders_are_in_one_report(folders):
    _add_text_file(folders)
    _add_folder_named_like_an_image(folders)
    _repeat_a_name(folders)
    table = folders / "lesions.csv"
    table.write_text(
        table.read_text().replace("ISIC_0000010,L12", "ISIC_0000010,").replace("_0000041,L62", "_0000041,L00")
    )
    with pytest.raises(DataError, match="7 faults in the data, the first: ") as error:
        read_folders(folders)
    assert [fault.removeprefix(f"{folders}/").rpartition(": ")[0] for fault in error.value.details] == [
        "Train/DF/new.jpg is a folder in a class folder, which holds images only",
        f"Train/DF/notes.txt is not an image file ({', '.join(IMAGE_SUFFIXES)})",
        "Train holds 2 images named ISIC_0000000 (DF/ISIC_0000000.jpeg, MEL/ISIC_0000000.jpg)",
        "lesions.csv:12: no lesion_id for ISIC_0000010",
        "MEL/ISIC_0000000.jpg: lesion L00 is MEL here and DF at DF/ISIC_0000000.jpeg",
        "MEL/ISIC_0000001.jpg: lesion L00 is MEL here and DF at DF/ISIC_0000000.jpeg",
        "VASC/ISIC_0000041.jpg: lesion L00 is VASC here and DF at DF/ISIC_0000000.jpeg",
    ]


def test_existing_folders_are_not_overwritten(folders, tiny_isic):
    with pytest.raises(DataError, match="folders exists: choose another name, or remove it"):
        write_folders(read_isic(tiny_isic), folders)


def test_an_interrupted_copy_is_resumed(monkeypatch, tiny_isic, tmp_path):
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
    first = Path(examples.paths[0])
    corrected = bytearray(first.read_bytes())
    corrected[-20] ^= 1
    first.write_bytes(corrected)
    write_folders(examples, tmp_path / "out")
    assert len(copied) == 44, "nineteen of the first twenty files are not copied again"
    [copy] = (tmp_path / "out").rglob(first.name)
    assert copy.read_bytes() == corrected
    copies = read_folders(tmp_path / "out")
    assert index_by_name(copies) == index_by_name(examples)
    validate_images(copies)


def test_files_of_another_interrupted_copy_are_removed(tiny_isic, tmp_path):
    for name in ("MEL", "a class of its own"):
        folder = tmp_path / ".out.copying" / "Train" / name
        folder.mkdir(parents=True)
        (folder / "other.jpg").write_bytes(b"of another download")
        (folder.parent / ".DS_Store").write_bytes(b"of a file manager")
        (folder / "a folder").mkdir()
        (folder / "a link").symlink_to(tmp_path)
    write_folders(read_isic(tiny_isic), tmp_path / "out")
    assert index_by_name(read_folders(tmp_path / "out")) == index_by_name(read_isic(tiny_isic))


@pytest.mark.parametrize("name", ["0001", ".a.jpg"])
def test_images_whose_copies_would_not_be_read_are_refused(tiny_isic, tmp_path, name):
    examples = read_isic(tiny_isic)
    examples.paths[0] = str(tiny_isic / name)
    with pytest.raises(DataError, match=rf"the copy of .*/{name} would not be read"):
        write_folders(examples, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_names_in_lesions_csv_may_write_accents_in_another_form(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "ä") for form in ("NFC", "NFD"))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / f"{decomposed}.jpg").touch()
    (tmp_path / "cat" / "b.jpg").touch()
    (tmp_path / "lesions.csv").write_text(f"image,lesion_id\n{composed},x\nb,x\n", "utf-8")
    assert set(read_folders(tmp_path).lesions) == {"x"}


def test_classes_that_differ_in_the_form_of_an_accent_only_are_refused(tmp_path):
    for form in ("NFC", "NFD"):
        folder = tmp_path / unicodedata.normalize(form, "café")
        folder.mkdir()
        (folder / f"{form}.jpg").touch()
    with pytest.raises(DataError, match=r"two folders 'cafe\\u0301' and 'caf\\xe9', two forms of one name"):
        read_folders(tmp_path)


def test_a_copy_is_on_the_disk_before_its_time_marks_it_as_complete(tiny_isic, tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(
        "input_pipeline.sources.folders.flush_to_disk", lambda path: events.append(("flush", path.name))
    )
    utime, replace = os.utime, os.replace
    monkeypatch.setattr("os.utime", lambda path, **times: (events.append(("time", path.name)), utime(path, **times)))
    monkeypatch.setattr("os.replace", lambda old, new: (events.append(("rename", "")), replace(old, new)))
    write_folders(read_isic(tiny_isic), tmp_path / "out")
    assert events[:2] == [("flush", "ISIC_0000000.jpg"), ("time", "ISIC_0000000.jpg")]
    assert len(events) == 2 * 42 + 2
    assert events[-2:] == [("flush", "lesions.csv"), ("rename", "")]


def test_blanks_in_file_names_are_kept_in_a_copy(tmp_path):
    for name in ("cat/x.jpg", "cat/x .jpg", "dog/1.jpg"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    write_folders(read_folders(tmp_path / "data"), tmp_path / "copy")
    copy = read_folders(tmp_path / "copy")
    assert sorted(copy.names) == ["1", "x", "x "]
    assert not copy.lesions_known


def test_classes_with_validation_images_only_are_not_copied(tiny_isic, tmp_path):
    examples = read_isic(tiny_isic)
    subsets = np.where(examples.labels == 5, "validation", "training")
    with pytest.raises(DataError, match=f"no training images of {CLASS_NAMES[5]}: change the column split"):
        write_folders(replace(examples, subsets=subsets), tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_classes_without_images_get_no_folder(tiny_isic, tmp_path):
    examples = read_isic(tiny_isic)
    write_folders(examples.take(np.flatnonzero(examples.labels != 5)), tmp_path / "out")
    assert read_folders(tmp_path / "out").class_names == ("AKIEC", "BCC", "BKL", "MEL", "NV", "VASC")


def test_a_copy_that_is_killed_twice_is_complete_after_the_third_start(tiny_isic, tmp_path):
    """Kills the process while part of a file is written."""
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
        assert len(list((tmp_path / ".out.copying").glob("Train/*/*.jpg"))) == done
    write_folders(examples, out)
    assert index_by_name(read_folders(out)) == index_by_name(examples)
    for path in examples.paths:
        [copied] = out.rglob(path.rpartition("/")[2])
        assert filecmp.cmp(path, copied, shallow=False)
    assert not (tmp_path / ".out.copying").exists()


@pytest.mark.parametrize("name", [b"new\nline", b"\xff", b"\x1b[31mred"])
@pytest.mark.parametrize("is_class", [True, False])
def test_names_that_would_break_tables_and_messages_are_refused(tmp_path, name, is_class):
    folder = os.path.join(os.fsencode(tmp_path), name if is_class else b"MEL")
    os.mkdir(folder)
    (tmp_path / "NV").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "NV" / "1.png")
    with open(os.path.join(folder, b"2.png" if is_class else name + b".png"), "wb") as file:
        file.write((tmp_path / "NV" / "1.png").read_bytes())
    with pytest.raises(DataError) as error:
        read_valid_examples("folders", tmp_path)
    noun = "class" if is_class else "image"
    assert f"the {noun} '" in str(error.value)
    assert str(error.value).endswith(" has control characters or invalid UTF-8 in its name: rename it")
    assert str(error.value).isprintable()
