"""Tests of reading, validating and splitting together, as in a run."""

import pytest

from input_pipeline.errors import DataError
from input_pipeline.sources.folders import write_folders
from input_pipeline.sources.isic import GROUPINGS, INPUT, read_isic
from input_pipeline.sources.registry import SOURCES, read_examples, read_split
from input_pipeline.sources.tfds import prepare_tfds
from tests.helpers.datasets import (
    TRUTH_FILE,
    add_official_sets,
    index_by_name,
    write_csv_table,
    write_ham10000,
)


def _split(folder, split="lesion", source="isic2018"):
    return read_split(source, folder, split, val_fraction=0.3, seed=0)


@pytest.fixture
def official_isic(tiny_isic):
    return add_official_sets(tiny_isic)


def test_all_layouts_of_the_same_images_have_the_same_examples(tiny_isic, tmp_path):
    examples = read_isic(tiny_isic)
    write_ham10000(examples, tmp_path / "ham10000")
    write_folders(examples, tmp_path / "folders")
    prepare_tfds(tiny_isic, tmp_path / "tfds")
    write_csv_table(examples, tmp_path / "csv")
    for source in SOURCES.keys() - {"sample", "isic2018"}:
        assert index_by_name(read_examples(source, tmp_path / source)) == index_by_name(examples)


def test_an_unknown_source_is_refused_with_the_known_ones(tiny_isic):
    for read in (read_examples, lambda *args: read_split(*args, "official", val_fraction=0.3, seed=0)):
        with pytest.raises(
            DataError,
            match="unknown data source 'isic': the sources are sample, isic2018, ham10000, folders, tfds, csv",
        ):
            read("isic", tiny_isic)


def test_only_layouts_of_the_archive_are_isic_data():
    assert {name for name, source in SOURCES.items() if source.is_isic} == {"isic2018", "ham10000", "tfds"}
    assert {name for name, source in SOURCES.items() if source.has_official_sets} == {"isic2018", "tfds"}


def test_all_faults_are_in_one_report(tiny_isic, caplog):
    truth, groupings = tiny_isic / TRUTH_FILE.format("Training"), tiny_isic / GROUPINGS
    images = tiny_isic / INPUT.format("Training")
    lines = truth.read_text().splitlines()
    lines[3] = "ISIC_0000002,1,1,0,0,0,0,0"
    lines[5] = lines[4]
    lines[7] = lines[7].replace("ISIC_0000006", "ISIC_7777777")
    truth.write_text("\n".join(lines))
    groupings.write_text(groupings.read_text().replace("ISIC_0000009,L11", "ISIC_0000009,L61"))
    groupings.write_text(groupings.read_text().replace("ISIC_0000010,L12,histopathology\n", ""))
    (images / "ISIC_0000020.jpg").write_bytes(b"")
    (images / "ISIC_0000021.jpg").write_bytes((images / "ISIC_0000021.jpg").read_bytes()[:500])
    (images / "ISIC_0000022.jpg").unlink()
    (images / "ISIC_0000022.jpg").mkdir()
    (images / "ISIC_0000023.jpg").unlink()
    (images / "ISIC_0000023.jpg").symlink_to(tiny_isic / "nowhere")
    with pytest.raises(DataError, match=r"^12 faults in the data, the first: ") as error:
        _split(tiny_isic, "last:0.3")
    assert not caplog.records, "classes are small only because rows were left out"
    report = "\n".join(error.value.details)
    for part in (
        "csv:4: ISIC_0000002 is not one-hot",
        "csv:6: ISIC_0000003 is in line 5 already",
        "ISIC_0000004.jpg has no row in",
        "csv:8: there is no ",
        "ISIC_0000006.jpg has no row in",
        "csv:12: ISIC_0000010 has no row in",
        "lesion L61 is VASC here and NV at ISIC2018_Task3_Training_GroundTruth.csv:11: give it one class",
        "ISIC_0000020.jpg (ISIC2018_Task3_Training_GroundTruth.csv:22) is empty",
        "ISIC_0000021.jpg (ISIC2018_Task3_Training_GroundTruth.csv:23) is a truncated or damaged JPEG",
        "ISIC_0000022.jpg (ISIC2018_Task3_Training_GroundTruth.csv:24) is a folder or a special file: replace",
        "ISIC_0000023.jpg (ISIC2018_Task3_Training_GroundTruth.csv:25) cannot be read (No such file or directory)",
    ):
        assert part in report
    assert len(error.value.details) == 12, "both images of L61"


def test_images_that_are_in_both_official_sets_are_warned_of_if_damaged_ones_are_skipped(official_isic, caplog):
    *_, last = sorted(official_isic.glob("*Validation_Input/*.jpg"))
    last.write_bytes(b"")
    training, validation = read_split("isic2018", official_isic, "official", val_fraction=0, seed=0, skip_damaged=True)
    assert (len(training), len(validation)) == (42, 41)
    assert last.stem not in validation.names
    assert "identical images: ISIC_0000000.jpg, ISIC_1000000.jpg" in caplog.text
    for path in official_isic.glob("*Validation_Input/*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="all images of the validation set are damaged"):
        read_split("isic2018", official_isic, "official", val_fraction=0, seed=0, skip_damaged=True)


@pytest.mark.parametrize(("split", "number"), [("official", 1), ("official:test", 2)])
def test_official_splits_validate_on_the_archives_own_sets(official_isic, tmp_path, split, number):
    for source, folder in (("isic2018", official_isic), ("tfds", tmp_path / "tfds")):
        if source == "tfds":
            prepare_tfds(official_isic, folder)
        training, validation = _split(folder, split, source)
        assert len(training) == len(validation) == 42
        assert all(f"ISIC_{number}" in path for path in validation.paths)
        assert all("ISIC_0" in path for path in training.paths)
        assert len(set(validation.lesions)) == 42


def test_an_image_in_two_of_the_archives_sets_is_reported(official_isic):
    first = official_isic / INPUT.format("Validation") / "ISIC_1000000.jpg"
    first.rename(first.with_name("ISIC_0000000.jpg"))
    truth = official_isic / TRUTH_FILE.format("Validation")
    truth.write_text(truth.read_text().replace("ISIC_1000000", "ISIC_0000000"))
    with pytest.raises(DataError, match=r"ISIC_0000000.jpg \(.*Validation.*csv:2\) is in the training set too"):
        _split(official_isic, "official")


def test_invalid_splits_are_refused_before_anything_is_read(tiny_isic, monkeypatch):
    monkeypatch.setattr("input_pipeline.sources.registry.prepare_sample", lambda: pytest.fail("read"))
    with pytest.raises(DataError, match="data.split is 'leson', expected one of lesion, "):
        _split("", "leson", "sample")
    for source in ("sample", "folders", "ham10000", "csv"):
        with pytest.raises(DataError, match=f"the source {source} has no official sets .isic2018 and tfds have them."):
            _split("", "official", source)
    with pytest.raises(DataError, match="Validation_Input is missing"):
        _split(tiny_isic, "official")


def test_records_of_a_tfds_data_set_are_validated_and_split_like_files(tiny_isic, tmp_path):
    prepare_tfds(tiny_isic, tmp_path / "tfds")
    files, records = _split(tiny_isic), _split(tmp_path / "tfds", source="tfds")
    for of_files, of_records in zip(files, records, strict=True):
        assert of_files.compute_fingerprint() == of_records.compute_fingerprint()
    assert (
        read_examples("tfds", tmp_path / "tfds").format_class_table()
        == read_examples("isic2018", tiny_isic).format_class_table()
    )
