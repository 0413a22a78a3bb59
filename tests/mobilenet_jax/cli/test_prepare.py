import pytest

from input_pipeline.sources.isic import read_isic
from input_pipeline.sources.tfds import read_tfds
from tests.helpers.datasets import write_ham10000, write_photographs


def test_class_folders_are_written_and_their_classes_printed(run, tiny_isic, tmp_path):
    status, out, _ = run("prepare", tiny_isic, tmp_path / "out")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == str(tmp_path / "out")
    assert lines[1].split() == ["class", "images", "lesions"]
    assert lines[2].split() == ["MEL", "6", "3"]
    assert lines[-1].split() == ["all", "42", "21"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"Train", "lesions.csv"}
    status, _, err = run("prepare", tiny_isic, tmp_path / "out")
    assert status == 1
    assert err == f"error: {tmp_path / 'out'} exists: choose another name, or remove it\n"


def test_a_tfds_data_set_is_created(run, tiny_isic, tmp_path):
    status, out, _ = run("prepare", tiny_isic, tmp_path / "tfds", "--to=tfds")
    assert status == 0
    assert out.splitlines()[-1].split() == ["all", "42", "21"]
    assert read_tfds(tmp_path / "tfds").compute_fingerprint() == read_isic(tiny_isic).compute_fingerprint()


def test_other_layouts_are_copied_to_class_folders(run, tiny_isic, tmp_path):
    ham10000 = write_ham10000(read_isic(tiny_isic), tmp_path / "ham10000")
    status, out, _ = run("prepare", ham10000, tmp_path / "out", "--source=ham10000")
    assert status == 0
    assert out.splitlines()[-1].split() == ["all", "42", "21"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--source=isic"],
            "unknown data source 'isic': the sources are sample, isic2018, ham10000, folders, tfds, csv",
        ),
        (
            ["--source=sample"],
            "--source sample is drawn by this project and has no RAW folder: choose one of isic2018, ham10000, "
            "folders, tfds, csv",
        ),
        (["--source=ham10000", "--to=tfds"], "--to tfds requires --source isic2018, not ham10000"),
    ],
)
def test_unsuitable_sources_are_refused_before_anything_is_written(run, tiny_isic, tmp_path, options, message):
    status, out, err = run("prepare", tiny_isic, tmp_path / "out", *options)
    assert (status, out, err) == (1, "", f"error: {message}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("label", ["N/A", "..", ".hidden", "a\\b"])
def test_classes_that_cannot_be_folders_are_refused_before_anything_is_written(run, tmp_path, label):
    write_photographs(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "t.csv").write_text(f"path,label\na.jpg,{label}\nb.jpg,other\n")
    status, _, err = run("prepare", tmp_path / "t.csv", tmp_path / "out", "--source=csv")
    assert (status, err) == (1, f"error: the class {label!r} cannot be the name of a folder: rename it in the source\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.jpg", "t.csv"]
