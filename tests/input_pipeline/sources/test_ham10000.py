import shutil

import pytest
from PIL import Image

from input_pipeline.errors import DataError
from input_pipeline.sources.ham10000 import read_ham10000
from input_pipeline.sources.isic import CLASS_NAMES, read_isic
from tests.helpers.datasets import index_by_name, write_ham10000


@pytest.fixture
def ham10000(tiny_isic, tmp_path):
    """Writes the 42 images of `tiny_isic` in the layout of Kaggle's copy."""
    return write_ham10000(read_isic(tiny_isic), tmp_path / "ham")


def test_examples_are_those_of_the_archive(tiny_isic, ham10000):
    expected = index_by_name(read_isic(tiny_isic))
    assert len(expected) == 42
    assert index_by_name(read_ham10000(ham10000)) == expected
    assert read_ham10000(ham10000).class_names == CLASS_NAMES


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",mel,", ",melanoma,", r"HAM10000_metadata.csv:2: unknown class 'melanoma'"),
        ("L00,ISIC_0000001", "L00,ISIC_0000000", "csv:3: ISIC_0000000 is in line 2 already"),
        ("ISIC_0000002", "ISIC_9999999", "csv:4: there is no ISIC_9999999.jpg in HAM10000_images_part_1 or"),
        ("L00,ISIC_0000000", ",ISIC_0000000", "csv:2: no lesion_id for ISIC_0000000"),
        ("image_id", "image", "csv:1: the columns are .*: add the header"),
        ("male,scalp", "male", "csv:2: the row has 6 cells, the header has 7"),
    ],
)
def test_faults_in_the_table_are_reported_by_line(ham10000, old, new, message):
    table = ham10000 / "HAM10000_metadata.csv"
    content = table.read_text()
    assert old in content
    table.write_text(content.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        read_ham10000(ham10000)


def test_all_faults_of_the_table_and_of_one_row_are_in_one_report(ham10000):
    table = ham10000 / "HAM10000_metadata.csv"
    lines = table.read_text().splitlines()
    lines[1] = ",ISIC_9999999,melanoma,histo,80.0,male,scalp"
    lines[4] = lines[3]
    lines[9] += ",more"
    table.write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        read_ham10000(ham10000)
    assert [fault.removeprefix(f"{ham10000}/").partition(": ")[0] for fault in error.value.details] == [
        *["HAM10000_metadata.csv:2"] * 3,
        "HAM10000_metadata.csv:5",
        "HAM10000_metadata.csv:10",
        f"HAM10000_images_part_1/ISIC_0000000.jpg has no row in {table}",
        f"HAM10000_images_part_2/ISIC_0000003.jpg has no row in {table}",
    ]


def test_blanks_around_a_lesion_do_not_make_it_another_one(ham10000):
    table = ham10000 / "HAM10000_metadata.csv"
    expected = read_ham10000(ham10000).lesions.tolist()
    table.write_text(table.read_text().replace("L00,", "L00 ,", 1))
    assert read_ham10000(ham10000).lesions.tolist() == expected


def test_images_of_the_same_name_in_both_parts_are_reported(ham10000):
    image = "ISIC_0000000.jpg"
    shutil.copy(ham10000 / "HAM10000_images_part_1" / image, ham10000 / "HAM10000_images_part_2" / image)
    with pytest.raises(DataError, match=r"part_2/ISIC_0000000\.jpg has the same name as .*part_1/ISIC_0000000\.jpg"):
        read_ham10000(ham10000)


def test_images_without_a_row_are_reported(ham10000):
    Image.new("RGB", (8, 8)).save(ham10000 / "HAM10000_images_part_2" / "extra.jpg")
    with pytest.raises(DataError, match=r"extra\.jpg has no row in"):
        read_ham10000(ham10000)
