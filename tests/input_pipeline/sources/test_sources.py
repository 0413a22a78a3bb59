"""Reading, auditing and splitting together, as a run does it."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from input_pipeline import validation
from input_pipeline.errors import DataError
from input_pipeline.sources.isic import read_isic
from input_pipeline.sources.registry import read_examples, read_split
from input_pipeline.sources.tfds import prepare_tfds
from input_pipeline.validation import validate_images
from tests.helpers.cached_run import train_from_a_disk_cache
from tests.helpers.datasets import add_official_sets
from tests.helpers.runs import ROOT

TRUTH = "ISIC2018_Task3_{0}_GroundTruth/ISIC2018_Task3_{0}_GroundTruth.csv"
IMAGES = "ISIC2018_Task3_{0}_Input"
GROUPINGS = "ISIC2018_Task3_Training_LesionGroupings.csv"


def _split(folder, how="lesion", source="isic2018"):
    return read_split(source, folder, how, val_fraction=0.3, seed=0)


@pytest.fixture
def with_parts(tiny_isic):
    return add_official_sets(tiny_isic)


def test_everything_that_is_wrong_is_in_one_report(tiny_isic, capsys):
    truth, groupings = tiny_isic / TRUTH.format("Training"), tiny_isic / GROUPINGS
    images = tiny_isic / IMAGES.format("Training")
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
    capsys.readouterr()
    with pytest.raises(DataError, match=r"^12 things are wrong with the data, the first is: ") as error:
        _split(tiny_isic, "last:0.3")
    assert capsys.readouterr().err == "", "classes are short of the rows left out only"
    report = "\n".join(error.value.details)
    for part in (
        "csv:4: ISIC_0000002 is not one-hot",
        "csv:6: ISIC_0000003 stands in line 5 already",
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


def test_an_image_that_may_not_be_read_is_named(tiny_isic, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("input_pipeline.validation.read_bytes", refuse)
    with pytest.raises(DataError, match=r"42 things .*ISIC_0000000.jpg \(.*csv:2\) cannot be read \(Permission denied"):
        validate_images(read_isic(tiny_isic))


@pytest.mark.parametrize(("how", "number"), [("official", 1), ("official:test", 2)])
def test_the_archives_own_sets_are_the_validation_side(with_parts, tmp_path, how, number):
    for source, folder in (("isic2018", with_parts), ("tfds", tmp_path / "tfds")):
        if source == "tfds":
            prepare_tfds(with_parts, folder)
        training, validation = _split(folder, how, source)
        assert len(training) == len(validation) == 42
        assert all(f"ISIC_{number}" in path for path in validation.paths)
        assert all("ISIC_0" in path for path in training.paths)
        assert len(set(validation.lesions)) == 42


def test_an_image_in_two_of_the_archives_sets_is_an_error(with_parts):
    first = with_parts / IMAGES.format("Validation") / "ISIC_1000000.jpg"
    first.rename(first.with_name("ISIC_0000000.jpg"))
    truth = with_parts / TRUTH.format("Validation")
    truth.write_text(truth.read_text().replace("ISIC_1000000", "ISIC_0000000"))
    with pytest.raises(DataError, match=r"ISIC_0000000.jpg \(.*Validation.*csv:2\) is in the training set too"):
        _split(with_parts, "official")


def test_a_split_that_cannot_be_is_refused_before_anything_is_read(tiny_isic, monkeypatch):
    monkeypatch.setattr("input_pipeline.sources.registry.prepare_sample", lambda: pytest.fail("read"))
    with pytest.raises(DataError, match="data.split is 'leson'; it is one of lesion, "):
        _split("", "leson", "sample")
    for source in ("sample", "folders", "ham10000"):
        with pytest.raises(DataError, match=f"data.source={source} has no official sets .isic2018 and tfds have."):
            _split("", "official", source)
    with pytest.raises(DataError, match="Validation_Input is missing"):
        _split(tiny_isic, "official")


@pytest.fixture
def looks(monkeypatch, tmp_path):
    """Counts the images that are looked at, in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seen = []

    look = validation._look
    monkeypatch.setattr(validation, "_look", lambda *args: seen.append(args) or look(*args))
    return seen


def test_an_audit_is_remembered_with_its_warnings_while_nothing_changes(tiny_isic, looks, capsys):
    images = tiny_isic / IMAGES.format("Training")
    shutil.copy(images / "ISIC_0000000.jpg", images / "ISIC_0000001.jpg")
    _split(tiny_isic)
    warning = capsys.readouterr().err
    assert warning.startswith("warning: identical images: ISIC_0000000.jpg, ISIC_0000001.jpg")
    assert len(looks) == 42
    _split(tiny_isic, "last:0.3")
    assert capsys.readouterr().err == warning
    assert len(looks) == 42


def _touch(images):
    os.utime(images / "ISIC_0000005.jpg")


def _replace(images):
    shutil.copy(images / "ISIC_0000003.jpg", images / "ISIC_0000005.jpg")


def _relabel(images):
    truth = images.parent / TRUTH.format("Training")
    rows = [line.split(",") for line in truth.read_text().splitlines()]
    truth.write_text("\n".join(",".join([r[0], *r[:0:-1]]) if r[0] != "image" else ",".join(r) for r in rows))


def _move_lines(images):
    truth = images.parent / TRUTH.format("Training")
    truth.write_text(truth.read_text().replace("\n", "\n\n", 1))


def _regroup(images):
    groupings = images.parent / GROUPINGS
    groupings.write_text(groupings.read_text().replace("L12,", "L11,"))


def _add(images):
    shutil.copy(images / "ISIC_0000003.jpg", images / "ISIC_0000042.jpg")
    for path, row in ((images.parent / TRUTH.format("Training"), "1,0,0,0,0,0,0"), (images.parent / GROUPINGS, "L99")):
        path.write_text(f"{path.read_text()}ISIC_0000042,{row}\n")


def _remove(images):
    (images / "ISIC_0000005.jpg").unlink()
    for path in (images.parent / TRUTH.format("Training"), images.parent / GROUPINGS):
        path.write_text("\n".join(row for row in path.read_text().splitlines() if "ISIC_0000005" not in row))


def _forget(images):
    for path in (images.parents[1] / "cache").rglob("*.json"):
        path.write_text("{")


CHANGES = [_touch, _replace, _relabel, _move_lines, _regroup, _add, _remove, _forget]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changed_is_looked_at_again(tiny_isic, looks, change):
    _split(tiny_isic)
    change(tiny_isic / IMAGES.format("Training"))
    examples = sum(len(side) for side in _split(tiny_isic, "last:0.3"))
    assert len(looks) == 42 + examples
    [file] = (tiny_isic.parent / "cache").rglob("audits/*")
    assert file.suffix == ".json", "one a data set, whatever it held"


def test_another_folder_of_the_same_relative_name_is_looked_at(tiny_isic, looks, monkeypatch, tmp_path):
    copy = shutil.copytree(tiny_isic, tmp_path / "elsewhere" / tiny_isic.name)
    for folder in (tiny_isic, copy):
        monkeypatch.chdir(folder.parent)
        _split(folder.name)
    assert len(looks) == 84


def test_an_audit_that_stops_half_way_through_its_writing_leaves_nothing(tiny_isic, looks, monkeypatch):
    def full(self, content):
        with open(self, "w") as file:
            file.write(content[:5])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", full)
        _split(tiny_isic)
    assert list((tiny_isic.parent / "cache").rglob("audits/*")) == []


def test_faults_are_not_remembered_as_sound(tiny_isic, looks):
    (tiny_isic / IMAGES.format("Training") / "ISIC_0000005.jpg").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(DataError, match="is empty"):
            _split(tiny_isic)
    assert len(looks) == 84


def test_a_cache_that_cannot_be_written_costs_only_time(tiny_isic, looks, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    _split(tiny_isic)
    _split(tiny_isic)
    assert len(looks) == 84


def test_records_of_a_tfds_data_set_are_audited_and_split_like_files(tiny_isic, tmp_path):
    prepare_tfds(tiny_isic, tmp_path / "tfds")
    files, records = _split(tiny_isic), _split(tmp_path / "tfds", source="tfds")
    for of_files, of_records in zip(files, records, strict=True):
        assert of_files.compute_fingerprint() == of_records.compute_fingerprint()
    assert (
        read_examples("tfds", tmp_path / "tfds").format_class_table()
        == read_examples("isic2018", tiny_isic).format_class_table()
    )


def test_training_from_a_disk_cache_needs_no_tensorflow(tiny_isic, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train_from_a_disk_cache(str(tiny_isic), str(tmp_path / "with"))
    command = [
        sys.executable,
        "-m",
        "tests.helpers.cached_run",
        tiny_isic,
        tmp_path / "without",
    ]  # TensorFlow is blocked there
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    losses = [json.loads((tmp_path / how / "metrics.jsonl").read_text())["train_loss"] for how in ("with", "without")]
    assert losses[0] == losses[1]
