import re

import numpy as np
import pytest

from input_pipeline.errors import DataError
from input_pipeline.sources.isic import CLASS_NAMES, GROUPINGS, INPUT, find_malignant, read_isic
from input_pipeline.validation import validate_images
from tests.helpers.datasets import TRUTH_FILE, write_isic

TRUTH = TRUTH_FILE.format("Training")
IMAGES = INPUT.format("Training")


def test_images_labels_and_lesions_are_read(tiny_isic):
    examples = read_isic(tiny_isic)
    assert examples.class_names == CLASS_NAMES == ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    assert len(examples) == 42
    np.testing.assert_array_equal(examples.labels, np.repeat(np.arange(7), 6))
    assert examples.paths[7] == str(tiny_isic / IMAGES / "ISIC_0000007.jpg")
    assert examples.lesions[7] == "L10"
    assert examples.rows[7].endswith("GroundTruth.csv:9")
    validate_images(examples)


def test_the_articles_numbers_are_read_like_the_archives(tiny_isic, tmp_path):
    article = read_isic(write_isic(tmp_path / "article", one="1", zero="0"))
    assert article.compute_fingerprint() == read_isic(tiny_isic).compute_fingerprint()


def test_malignant_classes_are_known_only_if_all_of_them_are_there():
    assert find_malignant(CLASS_NAMES) == ("MEL", "BCC", "AKIEC")
    assert find_malignant(("MEL", "NV")) == ()


def test_the_real_archive_is_read(real_data):
    examples = read_isic(real_data)
    assert len(examples) == 27
    assert set(examples.labels) == set(range(7))
    validate_images(examples)


def test_columns_may_be_in_any_order(tiny_isic):
    truth = tiny_isic / TRUTH
    rows = [line.split(",") for line in truth.read_text().splitlines()]
    truth.write_text("\n".join(",".join([r[0], *r[:0:-1]]) for r in rows))
    np.testing.assert_array_equal(read_isic(tiny_isic).labels, np.repeat(np.arange(7), 6))


def _edit(file, change):
    def damage(folder):
        path = folder / file
        path.write_text(change(path.read_text()))

    return damage


def _swap_line(number, line):
    def change(text):
        lines = text.splitlines()
        lines[number - 1 : number] = line
        return "\n".join(lines) + "\n"

    return change


ROW = "ISIC_0000002,{}"
BAD_TABLES = [
    (lambda d: (d / IMAGES / "ISIC_0000004.jpg").unlink(), r"GroundTruth.csv:6: there is no .*ISIC_0000004.jpg"),
    (_edit(TRUTH, _swap_line(4, [])), r"ISIC_0000002.jpg has no row in .*GroundTruth.csv"),
    (_edit(TRUTH, _swap_line(4, [ROW.format("1.0,1.0,0.0,0.0,0.0,0.0,0.0")])), r"csv:4: ISIC_0000002 is not one-hot"),
    (_edit(TRUTH, _swap_line(4, [ROW.format("0.0,0.0,0.0,0.0,0.0,0.0,0.0")])), r"csv:4: ISIC_0000002 is not one-hot"),
    (_edit(TRUTH, _swap_line(4, [ROW.format("1.0,0.0,0.0,0.0,0.0,0.0")])), r"csv:4: ISIC_0000002 is not one-hot"),
    (_edit(TRUTH, _swap_line(4, [ROW.format("0.7,0.3,0.0,0.0,0.0,0.0,0.0")])), r"csv:4: ISIC_0000002 is not one-hot"),
    (_edit(TRUTH, _swap_line(4, ["ISIC_0000001,1,0,0,0,0,0,0"])), r"csv:4: ISIC_0000001 is in line 3 already"),
    (_edit(TRUTH, lambda t: t.replace("VASC", "SCC")), r"GroundTruth.csv:1: unknown class 'SCC'"),
    (_edit(TRUTH, lambda t: t.replace("DF", "NV")), r"GroundTruth.csv:1: the columns must be"),
    (_edit(TRUTH, lambda t: t.partition("\n")[0] + "\n"), r"GroundTruth.csv lists no images"),
    (_edit(TRUTH, lambda t: ""), r"GroundTruth.csv:1: the first column is missing"),
    (_edit(TRUTH, lambda t: t.partition("\n")[2]), r"GroundTruth.csv:1: the header is missing: add the line image,MEL"),
    (
        _edit(GROUPINGS, _swap_line(4, ["ISIC_0000002,L61,x"])),
        r"csv:40: lesion L61 is VASC here and MEL at",
    ),
    (lambda d: (d / TRUTH).write_bytes(b"\xff\xfe\x00\x01"), r"GroundTruth.csv is not a CSV text"),
    (_edit(GROUPINGS, _swap_line(4, [])), r"GroundTruth.csv:4: ISIC_0000002 has no row in .*LesionGroupings.csv"),
    (
        _edit(GROUPINGS, _swap_line(4, ["ISIC_0000001,L9,x"])),
        r"LesionGroupings.csv:4: ISIC_0000001 is in an earlier line",
    ),
    (_edit(GROUPINGS, _swap_line(4, ["ISIC_0000002,,x"])), r"LesionGroupings.csv:4: no lesion_id"),
    (_edit(GROUPINGS, _swap_line(1, [])), r"LesionGroupings.csv:1: the first columns are .*: add the header"),
    (lambda d: (d / TRUTH).unlink(), r"GroundTruth.csv is missing: the data folder is the one"),
]


@pytest.mark.parametrize(("damage", "message"), BAD_TABLES, ids=[m for _, m in BAD_TABLES])
def test_faults_in_tables_are_reported_by_file_and_line(tiny_isic, damage, message):
    damage(tiny_isic)
    with pytest.raises(DataError, match=message) as error:
        read_isic(tiny_isic)
    assert "\n" not in str(error.value)


def _faults(folder):
    with pytest.raises(DataError) as error:
        read_isic(folder)
    return [fault.rpartition("/")[2] for fault in error.value.details]


def test_each_fault_of_a_row_is_reported_without_its_consequences(tiny_isic):
    _edit(TRUTH, _swap_line(4, [ROW.format("1,1,0,0,0,0,0")]))(tiny_isic)
    (tiny_isic / IMAGES / "ISIC_0000002.jpg").unlink()
    _edit(GROUPINGS, _swap_line(5, ["ISIC_0000003"]))(tiny_isic)
    _edit(TRUTH, lambda text: text.replace("ISIC_0000004", "ISIC_7777777"))(tiny_isic)
    assert _faults(tiny_isic) == [
        "ISIC2018_Task3_Training_GroundTruth.csv:4: ISIC_0000002 is not one-hot: exactly one of the 7 columns must "
        "be 1, the rest 0",
        "ISIC2018_Task3_Training_LesionGroupings.csv:5: no lesion_id for ISIC_0000003: add one, splits by lesion "
        "require it",
        "ISIC_0000002.jpg: add the image or remove the row",
        "ISIC_7777777.jpg: add the image or remove the row",
        "ISIC2018_Task3_Training_GroundTruth.csv: add one or remove the image",
    ]


def test_images_whose_names_differ_in_the_suffix_only_are_reported(tiny_isic):
    (tiny_isic / IMAGES / "ISIC_0000003.JPG").touch()
    with pytest.raises(
        DataError, match=r"ISIC_0000003\.jpg has the same name as .*ISIC_0000003\.JPG: rename or remove"
    ):
        read_isic(tiny_isic)


def test_a_table_without_valid_rows_is_reported_row_by_row(tiny_isic):
    _edit(TRUTH, lambda text: text.replace("1.0", "0.0"))(tiny_isic)
    assert [int(fault.split(":")[1]) for fault in _faults(tiny_isic)] == list(range(2, 44))


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"no such data folder: {tmp_path / 'nowhere'}")):
        read_isic(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "\ufeff" + t,
        lambda t: t.replace("\n", "\r\n"),
        lambda t: "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in t.splitlines()),
        lambda t: t.replace("\n", "\n\n"),
    ],
    ids=["BOM", "CRLF", "quoted", "empty lines"],
)
def test_tables_written_by_spreadsheets_are_read(tiny_isic, change):
    expected = read_isic(tiny_isic)
    for file in (TRUTH, GROUPINGS):
        path = tiny_isic / file
        path.write_bytes(change(path.read_text()).encode())
    assert read_isic(tiny_isic).compute_fingerprint() == expected.compute_fingerprint()


def test_hidden_files_of_macos_are_ignored(tiny_isic):
    (tiny_isic / INPUT.format("Training") / "._ISIC_0000000.jpg").write_bytes(b"")
    assert len(read_isic(tiny_isic)) == 42


def test_without_groupings_lesions_are_unknown_and_a_warning_is_logged(tiny_isic, caplog):
    (tiny_isic / GROUPINGS).unlink()
    examples = read_isic(tiny_isic)
    assert len(set(examples.lesions)) == 42
    assert not examples.lesions_known
    [warning] = caplog.records
    assert warning.levelname == "WARNING"
    assert warning.message.startswith(f"{tiny_isic / GROUPINGS} is missing, so lesions are unknown, and near-dup")
    assert "\n" not in warning.message
