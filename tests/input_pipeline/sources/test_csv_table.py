import unicodedata
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.errors import DataError
from input_pipeline.sources.csv_table import read_csv_table
from input_pipeline.sources.registry import read_split
from tests.helpers.datasets import write_photographs


@pytest.fixture
def folder(tmp_path):
    return write_photographs(tmp_path, [f"{name}/{i}.png" for name in ("a", "b") for i in range(4)])


def _write(folder, *lines):
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def _list_rows(*names, extra=""):
    return [f"{name}/{i}.png,{name}{extra}" for name in names for i in range(4)]


def test_paths_and_labels_are_enough(folder):
    examples = read_csv_table(_write(folder, "path,label", *_list_rows("b", "a")))
    assert examples.class_names == ("a", "b")
    assert examples.labels.tolist() == [1] * 4 + [0] * 4
    assert examples.paths.tolist() == [str(folder / name / f"{i}.png") for name in ("b", "a") for i in range(4)]
    assert examples.names[0] == "b/0.png"
    assert examples.rows[0] == "table.csv:2"
    assert examples.subsets is None
    assert not examples.lesions_known
    training, validation = read_split("csv", folder / "table.csv", "lesion", val_fraction=0.5, seed=0)
    assert len(training) == len(validation) == 4


def test_groups_are_kept_together(folder):
    rows = [f"{name}/{i}.png,{name},{name}{i // 2}" for name in ("a", "b") for i in range(4)]
    file = _write(folder, "path,label,group", *rows)
    examples = read_csv_table(file)
    assert examples.lesions_known
    assert examples.lesions.tolist() == ["a0", "a0", "a1", "a1", "b0", "b0", "b1", "b1"]
    training, validation = read_split("csv", file, "lesion", val_fraction=0.5, seed=0)
    assert not set(training.lesions) & set(validation.lesions)
    assert len(training) == len(validation) == 4


def test_an_image_without_a_group_is_a_group_of_its_own(folder):
    examples = read_csv_table(_write(folder, "path,label,group", "a/0.png,a,x", "a/1.png,a,x", "b/2.png,b,"))
    assert examples.lesions.tolist() == ["x", "x", "2"]
    rows = ["a/0.png,a,", "a/1.png,a,", "b/2.png,b,1", "b/3.png,b,1"]
    examples = read_csv_table(_write(folder, "path,label,group", *rows))
    assert examples.lesions.tolist() == ["0", "1 (image)", "1", "1"], "an image called 1 is not in the group 1"
    write_photographs(folder, ["a/1 (image).png"])
    examples = read_csv_table(_write(folder, "path,label,group", *rows, "a/1 (image).png,a,"))
    assert examples.lesions.tolist() == ["0", "1 (image) (image)", "1", "1", "1 (image)"]


def test_the_column_split_gives_the_sides(folder):
    rows = [f"{side},b/{i}.png,b" for i, side in enumerate(("train", "Training", "val", "validation"))]
    file = _write(folder, "split,path,label", *rows, "valid,a/0.png,a")
    for split in ("lesion", "given"):
        training, validation = read_split("csv", file, split, val_fraction=0.5, seed=0)
        assert training.names.tolist() == ["b/0.png", "b/1.png"]
        assert validation.names.tolist() == ["b/2.png", "b/3.png", "a/0.png"]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("10", "9", "-1"), ("-1", "9", "10")),
        (("b", "B", "a"), ("B", "a", "b")),
        (("2", "10", "x"), ("10", "2", "x")),
        (("2", "10", "--1"), ("--1", "10", "2")),
    ],
)
def test_classes_are_sorted_as_numbers_if_all_are(folder, labels, classes):
    rows = [f"a/{i}.png,{label}" for i, label in enumerate(labels)]
    assert read_csv_table(_write(folder, "path,label", *rows)).class_names == classes


def test_absolute_paths_and_other_columns_and_spaces_are_accepted(folder, tmp_path):
    elsewhere = write_photographs(tmp_path / "elsewhere", ["x.png"])
    file = _write(folder, "note,label,path", f"n,a, {elsewhere / 'x.png'} ", "n, b ,a/1.png")
    examples = read_csv_table(file)
    assert examples.paths.tolist() == [str(elsewhere / "x.png"), str(folder / "a" / "1.png")]
    assert examples.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["path,class", "a/0.png,a"],
            r"table.csv:1: the columns are \['path', 'class'\], but path and label are required",
        ),
        (["path;label", "a/0.png;a"], "table.csv:1: the columns are .*separated by commas"),
        (["path,label,label", "a/0.png,a,a"], "table.csv:1: the columns are .*each of them once"),
        (["path,label,Split", "a/0.png,a,val"], "table.csv:1: the columns are .*in lower case"),
        (["path,label"], "table.csv lists no images"),
        (["path,label", "a/0.png"], "table.csv:2: the row has 1 cells, the header has 2"),
        (
            ["path,label", "a/9.png,a", "b/0.png,b"],
            r"table.csv:2: there is no .*a/9.png: add the image or remove the row",
        ),
        (["path,label", "a/0.png,a", "b/0.png,"], "table.csv:3: no label for b/0.png: fill it in"),
        (["path,label", ",a", "b/0.png,b"], "table.csv:2: the path is empty"),
        (["path,label", "a/0.png,a", "a/0.png,b"], "table.csv:3: a/0.png is in line 2 already"),
        (["path,label", "a/0.png,a", "./a//0.png,b"], "table.csv:3: ./a//0.png is in line 2 already"),
        (["path,label", f"{'a' * 300}.png,a"], "table.csv:2: .*a.png cannot be read .*too long"),
        (["path,label", "a/0.png/1.png,a"], "table.csv:2: there is no .*a/0.png/1.png"),
        (["path,label", "a\0.png,a"], "table.csv:2: there is no"),
        (
            ["path,label,split", "a/0.png,a,train", "b/0.png,b,dev"],
            "table.csv:3: split is 'dev', not one of train, training, val, valid, validation",
        ),
        (
            ["path,label,group", "a/0.png,a,x", "b/0.png,b,x"],
            "table.csv:3: lesion x is b here and a at table.csv:2: give it one class",
        ),
    ],
)
def test_faults_are_reported_with_their_line(folder, lines, message):
    with pytest.raises(DataError, match=message):
        read_csv_table(_write(folder, *lines))


def test_labels_and_groups_do_not_depend_on_the_form_of_their_accents(folder):
    composed, decomposed = (unicodedata.normalize(form, "ä") for form in ("NFC", "NFD"))
    (folder / "a" / "0.png").rename(folder / "a" / f"{decomposed}.png")
    rows = [f"a/{decomposed}.png,{composed},{decomposed}", f"b/1.png,{decomposed},{composed}", "a/2.png,a,"]
    examples = read_csv_table(_write(folder, "path,label,group,Group", *(f"{row},x" for row in rows)))
    assert examples.class_names == ("a", composed)
    assert examples.lesions.tolist() == [composed, composed, "2"]
    assert Path(examples.paths[0]).exists()


def test_paths_are_normalized_but_links_are_kept(folder):
    (folder / "link").symlink_to(folder / "b")  # so that link/../a is a folder beside b, and not one beside the link
    examples = read_csv_table(
        _write(folder, "path,label", "./a//0.png,a", f"{folder}/b/./0.png,b", "link/../a/1.png,a")
    )
    assert examples.paths.tolist() == [str(folder / name) for name in ("a/0.png", "b/0.png", "link/../a/1.png")]


def test_all_faults_are_in_one_report(folder):
    with pytest.raises(DataError, match="3 faults in the data") as error:
        read_csv_table(_write(folder, "path,label", "a/9.png,", "a/0.png,a", "a/0.png,a"))
    assert [fault.partition(": ")[0].rpartition(":")[2] for fault in error.value.details] == ["2", "2", "4"]


def test_rows_of_a_test_set_are_left_out(folder, caplog):
    caplog.set_level("INFO")
    file = _write(folder, "path, label, split", "a/0.png, a, train", "b/0.png, b, train", "none.png, b, Test")
    examples = read_csv_table(file)
    assert examples.names.tolist() == ["a/0.png", "b/0.png"]
    assert examples.class_names == ("a", "b")
    assert caplog.messages == [f"{file}: 1 rows of the test set are not read"]


def test_a_folder_or_a_missing_file_is_refused(folder):
    for path in (folder, folder / "none.csv"):
        hint = "class folders need data.source=folders" if path == folder else "expected a CSV file"
        with pytest.raises(DataError, match=f"no such table: .*{hint}"):
            read_csv_table(path)


def test_a_damaged_image_is_reported_with_its_line(folder):
    (folder / "a" / "1.png").write_bytes(b"")
    file = _write(folder, "path,label", *_list_rows("a", "b"))
    with pytest.raises(DataError, match=r"a/1.png \(table.csv:3\) is empty"):
        read_split("csv", file, "lesion", val_fraction=0.5, seed=0)
    training, validation = read_split("csv", file, "lesion", val_fraction=0.5, seed=0, skip_damaged=True)
    assert len(np.concatenate([training.paths, validation.paths])) == 7
