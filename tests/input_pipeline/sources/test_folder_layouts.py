"""Class folders as people have them: given splits, repeated names, other formats, files of Windows and macOS."""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.errors import DataError
from input_pipeline.sources.folders import read_folders, write_folders
from input_pipeline.sources.registry import read_examples, read_split
from input_pipeline.splits import format_split
from tests.helpers.datasets import write_photographs

PAIR = [f"{side}/{name}" for side in ("train", "val") for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")]


def _split(folder, split="lesion"):
    return read_split("folders", folder, split, val_fraction=0.5, seed=0)


@pytest.mark.parametrize("training", ["train", "Train", "TRAIN", "training", "Training"])
@pytest.mark.parametrize("validation", ["val", "Val", "valid", "validation", "VALIDATION", "test", "Test"])
def test_training_and_validation_folders_are_the_split(tmp_path, training, validation):
    names = [name.replace("train", training).replace("val", validation) for name in PAIR]
    write_photographs(tmp_path, names)
    for split in ("lesion", "given"):
        subsets = _split(tmp_path, split)
        assert [[str(Path(path).relative_to(tmp_path)) for path in side.paths] for side in subsets] == [
            names[:4],
            names[4:],
        ]
        assert [side.labels.tolist() for side in subsets] == [[0, 0, 1, 1]] * 2
        assert subsets[0].class_names == ("cat", "dog")


def test_other_splits_ignore_the_given_one(tmp_path):
    write_photographs(tmp_path, PAIR)
    training, validation = _split(tmp_path, "fold:1/2")
    assert {Path(path).relative_to(tmp_path).parts[0] for path in training.paths} == {"train", "val"}
    assert len(training) == len(validation) == 4


def test_a_test_folder_beside_a_validation_folder_is_not_read_but_named(tmp_path, caplog):
    write_photographs(tmp_path, [*PAIR, "test/cat/9.jpg", "test/dog/9.jpg"])
    caplog.set_level("INFO")
    assert len(read_folders(tmp_path)) == 8
    assert caplog.messages == [f"{tmp_path / 'test'} is not read: it is beside train"]


def test_a_validation_folder_without_class_folders_is_not_replaced_by_the_test_folder(tmp_path):
    write_photographs(tmp_path, [*PAIR[:4], "val/1.jpg", "test/cat/9.jpg", "test/dog/9.jpg"])
    message = "val holds images, not class folders: move the images of each class into a folder, such as .*/val/cat"
    with pytest.raises(DataError, match=message):
        read_folders(tmp_path)


def test_a_training_folder_alone_is_split_by_fraction(tmp_path):
    write_photographs(tmp_path, PAIR[:4])
    assert read_folders(tmp_path).subsets is None
    assert [len(side) for side in _split(tmp_path)] == [2, 2]
    with pytest.raises(
        DataError, match="data.split is 'given', but the data have no split: put the class folders into"
    ):
        _split(tmp_path, "given")


def test_a_validation_folder_may_lack_a_class(tmp_path):
    write_photographs(tmp_path, PAIR[:6])
    training, validation = _split(tmp_path)
    assert validation.class_names == training.class_names == ("cat", "dog")
    assert validation.labels.tolist() == [0, 0]


def test_classes_named_like_sides_are_classes(tmp_path):
    write_photographs(tmp_path, ["train/1.jpg", "bus/2.jpg", "test/3.jpg"])
    assert read_folders(tmp_path).class_names == ("bus", "test", "train")


def test_a_class_that_only_the_validation_folder_has_is_refused(tmp_path):
    write_photographs(tmp_path, [*PAIR, "val/dgo/1.jpg"])
    with pytest.raises(
        DataError, match=r"val/dgo is not a class of .*train: the classes are cat, dog; rename or remove"
    ):
        read_folders(tmp_path)


def test_two_training_folders_are_refused(tmp_path):
    write_photographs(tmp_path, [*PAIR, "training/cat/1.jpg"])
    with pytest.raises(DataError, match=r"train and .*training have the same role: keep one of them"):
        read_folders(tmp_path)


def test_a_validation_folder_alone_is_refused(tmp_path):
    write_photographs(tmp_path, PAIR[4:])
    with pytest.raises(DataError, match="holds val but no folder train: add it"):
        read_folders(tmp_path)


@pytest.mark.parametrize("side", ["train", "val"])
@pytest.mark.parametrize("name", ["_annotations.csv", "stray.jpg"])
def test_a_file_beside_the_class_folders_of_a_split_is_refused(tmp_path, side, name):
    """Such a file must not make a test folder the validation folder."""
    write_photographs(tmp_path, [*PAIR, "test/cat/9.jpg", "test/dog/9.jpg"])
    (tmp_path / side / name).touch()
    with pytest.raises(DataError, match=rf"{side}/{name} is beside the class folders: move it"):
        read_folders(tmp_path)


def test_a_file_beside_the_class_folders_of_a_training_folder_is_refused(tmp_path):
    write_photographs(tmp_path, PAIR[:4])
    (tmp_path / "train" / "README.txt").touch()
    with pytest.raises(DataError, match=r"train/README\.txt is beside the class folders: move it"):
        read_folders(tmp_path)


def test_images_beside_class_folders_without_a_training_folder_are_named_in_a_warning(tmp_path, caplog):
    write_photographs(tmp_path, ["cat/1.jpg", "dog/1.jpg", "stray.jpg", "other.png"])
    (tmp_path / "notes.txt").touch()
    assert len(read_folders(tmp_path)) == 2
    assert caplog.messages == ["2 images beside the class folders are not read, such as other.png"]


def test_a_class_that_is_called_train_may_hold_a_folder_which_is_reported(tmp_path):
    write_photographs(tmp_path, ["train/1.jpg", "bus/1.jpg", "train/old/2.jpg"])
    with pytest.raises(DataError, match="train/old is a folder in a class folder"):
        read_folders(tmp_path)


def test_folders_of_class_folders_are_no_classes(tmp_path):
    write_photographs(tmp_path, ["animals/cat/1.jpg", "animals/dog/2.jpg", "plants/rose/3.jpg"])
    with pytest.raises(DataError, match=r"2 faults|animals holds folders, not images") as error:
        read_folders(tmp_path)
    assert (
        f"{tmp_path}/animals holds folders, not images: move the images into it, or specify" in error.value.details[0]
    )
    assert (
        f"specify {tmp_path}/animals as the folder of the data if these folders are the classes"
        in error.value.details[0]
    )


@pytest.mark.parametrize(("training", "validation"), [("training_set", "test_set"), ("Training", "Testing")])
def test_folders_of_subsets_have_several_names(tmp_path, training, validation):
    write_photographs(tmp_path, [f"{training}/cat/1.jpg", f"{training}/dog/2.jpg", f"{validation}/cat/3.jpg"])
    examples = read_folders(tmp_path)
    assert list(examples.subsets) == ["training", "training", "validation"]


def test_accents_may_be_written_in_two_ways(tmp_path):
    """As in archives that a Mac has made."""
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write_photographs(tmp_path, [f"train/{composed}/1.jpg", "train/dog/2.jpg", f"val/{decomposed}/3.jpg"])
    examples = read_folders(tmp_path)
    assert examples.class_names == (composed, "dog")
    assert examples.labels.tolist() == [0, 1, 0]


def test_files_that_systems_add_are_ignored(tmp_path):
    write_photographs(tmp_path, ["cat/1.jpg", "dog/2.jpg", "@eaDir/x/3.jpg"])
    (tmp_path / "cat" / "1.jpg:Zone.Identifier").write_text("[ZoneTransfer]")
    assert read_folders(tmp_path).class_names == ("cat", "dog")
    assert len(read_folders(tmp_path)) == 2


def test_an_empty_side_is_refused(tmp_path):
    write_photographs(tmp_path, PAIR[:4])
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="val/cat is empty: add its images or remove it"):
        read_folders(tmp_path)
    (tmp_path / "val" / "cat").rmdir()
    (tmp_path / "val" / "new").mkdir()
    (tmp_path / "val" / "new").rmdir()
    assert [len(side) for side in _split(tmp_path)] == [2, 2], "a folder without class folders holds no validation set"


def test_lesions_table_applies_to_both_sides(tmp_path):
    write_photographs(tmp_path, ["train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg"])
    (tmp_path / "lesions.csv").write_text("image,lesion_id\n1,a\n2,b\n3,a\n4,c\n")
    training, validation = _split(tmp_path)
    assert training.lesions.tolist() == ["a", "b"]
    assert validation.lesions.tolist() == ["a", "c"]


def test_file_names_may_repeat_in_other_classes(tmp_path):
    write_photographs(tmp_path, [f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(4)])
    examples = read_folders(tmp_path)
    assert examples.names.tolist() == [f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(4)]
    assert not examples.lesions_known
    assert examples.lesions.tolist() == examples.names.tolist()


def test_a_split_of_repeated_names_is_reproduced_from_its_table(tmp_path):
    write_photographs(tmp_path / "data", [f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(4)])
    subsets = _split(tmp_path / "data")
    (tmp_path / "splits.csv").write_text(format_split(*subsets))
    assert "\ncat/2.jpg,training,cat,cat/2.jpg\n" in format_split(*subsets)
    again = _split(tmp_path / "data", str(tmp_path / "splits.csv"))
    assert [side.paths.tolist() for side in again] == [side.paths.tolist() for side in subsets]


def test_a_single_class_can_be_read_but_not_split(tmp_path):
    write_photographs(tmp_path, ["cat/1.jpg", "cat/2.jpg"])
    assert read_examples("folders", tmp_path).class_names == ("cat",)
    with pytest.raises(DataError, match="has the class cat only: add the images of another class"):
        _split(tmp_path)


@pytest.mark.parametrize(("training", "held_out"), [("train", "test"), ("Training_Set", "val")])
def test_subsets_without_class_folders_are_not_classes(tmp_path, training, held_out):
    write_photographs(tmp_path, [f"{training}/cat.1.jpg", f"{held_out}/1.jpg"])
    with pytest.raises(
        DataError, match=rf"{training} and .*{held_out} hold images, not class folders: move the images"
    ):
        read_folders(tmp_path)


def test_images_beside_the_class_folders_of_a_subset_are_named(tmp_path):
    write_photographs(tmp_path, ["train/cat/1.jpg", "train/dog/2.jpg", "train/3.jpg", "test/4.jpg"])
    with pytest.raises(DataError, match="train holds images beside class folders: move the images elsewhere"):
        read_folders(tmp_path)


def test_damaged_images_can_leave_a_single_class(tmp_path):
    write_photographs(tmp_path, ["cat/1.jpg", "cat/2.jpg", "dog/3.jpg"])
    (tmp_path / "dog/3.jpg").write_bytes(b"damaged")
    with pytest.raises(DataError, match="has the class cat only: add the images of another class"):
        read_split("folders", tmp_path, "all", val_fraction=0.3, seed=0, skip_damaged=True)


def test_unique_file_names_without_suffix_stay_the_names(tmp_path):
    write_photographs(tmp_path, ["cat/1.jpg", "dog/2.jpg"])
    assert read_folders(tmp_path).names.tolist() == ["1", "2"]


def test_the_same_name_with_two_suffixes_becomes_two_paths(tmp_path):
    write_photographs(tmp_path, ["cat/1.jpg", "cat/1.png", "dog/2.jpg"])
    assert read_folders(tmp_path).names.tolist() == ["cat/1.jpg", "cat/1.png", "dog/2.jpg"]


def test_lesions_of_repeated_names_are_found_by_path(tmp_path):
    write_photographs(tmp_path, ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"])
    (tmp_path / "lesions.csv").write_text("image,lesion_id\ncat/1.jpg,a\ndog/1.jpg,b\n2,a\n")
    examples = read_folders(tmp_path)
    assert examples.lesions_known
    assert examples.lesions.tolist() == ["a", "a", "b"]
    (tmp_path / "lesions.csv").write_text("image,lesion_id\n1,a\n2,b\n")
    with pytest.raises(DataError) as error:
        read_folders(tmp_path)
    assert error.value.details[0] == (
        f"{tmp_path} holds 2 images named 1 (cat/1.jpg, dog/1.jpg): name them by path in lesions.csv, such as cat/1.jpg"
    )


@pytest.mark.parametrize("name", ["Thumbs.db", "thumbs.db", ".DS_Store", "desktop.ini", ".hidden.jpg", "._1.jpg"])
def test_files_of_windows_and_macos_are_ignored(tmp_path, name):
    write_photographs(tmp_path, ["cat/1.jpg", "dog/2.jpg"])
    (tmp_path / "cat" / name).write_bytes(b"")
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / ".git").mkdir()
    assert len(read_folders(tmp_path)) == 2


@pytest.mark.parametrize("suffix", ["heic", "HEIC", "avif", "dcm", "svg"])
def test_formats_that_cannot_be_read_are_refused_by_name(tmp_path, suffix):
    write_photographs(tmp_path, ["cat/1.jpg", "dog/2.jpg"])
    (tmp_path / "cat" / f"2.{suffix}").write_bytes(b"")
    with pytest.raises(
        DataError, match=f"cat/2.{suffix} is in a format that cannot be read: convert it to JPEG or PNG"
    ):
        read_folders(tmp_path)


def test_all_readable_formats_are_read(tmp_path):
    suffixes = ("bmp", "gif", "jfif", "jpeg", "jpg", "png", "tif", "tiff", "webp", "WEBP")
    write_photographs(tmp_path, [f"{name}/{name}{suffix}.{suffix}" for name in ("cat", "dog") for suffix in suffixes])
    training, validation = _split(tmp_path)
    assert len(training) + len(validation) == 20


def test_copies_of_given_sides_and_repeated_names_hold_the_same_examples(tmp_path):
    write_photographs(tmp_path / "data", PAIR)
    examples = read_folders(tmp_path / "data")
    write_folders(examples, tmp_path / "copy")
    copies = read_folders(tmp_path / "copy")
    assert not copies.lesions_known
    assert copies.subsets.tolist() == examples.subsets.tolist()
    assert copies.labels.tolist() == examples.labels.tolist()
    assert copies.names.tolist() == [name.removesuffix(".jpg").replace("/", "_") for name in PAIR]
    for path, copy in zip(examples.paths, copies.paths, strict=True):
        assert Path(path).read_bytes() == Path(copy).read_bytes()


def test_copies_that_would_have_the_same_name_are_refused(tmp_path):
    write_photographs(tmp_path / "data", ["cat/1.jpg", "cat/1.png", "dog/2.jpg"])
    with pytest.raises(DataError, match=r"1.jpg and .*1.png would both be named cat_1: rename one"):
        write_folders(read_folders(tmp_path / "data"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_sides_are_kept_when_examples_are_taken(tmp_path):
    write_photographs(tmp_path, PAIR)
    last = read_folders(tmp_path).take(np.array([7, 0]))
    assert last.names.tolist() == ["val/dog/2.jpg", "train/cat/1.jpg"]
    assert last.subsets.tolist() == ["validation", "training"]
    shutil.rmtree(tmp_path / "val")
    assert read_folders(tmp_path).take(np.array([0])).subsets is None
