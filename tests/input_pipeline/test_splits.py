import unicodedata
from dataclasses import replace

import numpy as np
import pytest

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples
from input_pipeline.sources.isic import read_isic
from input_pipeline.splits import count_crossing_lesions, format_split, split_by_lesion, split_examples


def _make_examples(lesions_of_class, images=(1, 2, 3)):
    rng = np.random.default_rng(0)
    labels, lesions = [], []
    for label, count in enumerate(lesions_of_class):
        for lesion in range(count):
            n = rng.choice(images)
            labels += [label] * n
            lesions += [f"{label}-{lesion}"] * n
    order = rng.permutation(len(labels))
    names = np.array([f"{i}.jpg" for i in range(len(labels))])
    classes = tuple("ABCDEFG"[: len(lesions_of_class)])
    return Examples(names, np.array(labels, np.int32)[order], np.array(lesions)[order], names, classes)


def test_no_lesion_is_on_both_sides_and_none_is_lost():
    examples = _make_examples([300, 50, 10])
    training, validation = split_by_lesion(examples, 0.3, seed=0)
    assert not set(training.lesions) & set(validation.lesions)
    assert sorted([*training.paths, *validation.paths]) == sorted(examples.paths)
    for part in (training, validation):
        known = dict(zip(examples.paths, zip(examples.labels, examples.lesions, strict=True), strict=True))
        assert all(known[p] == (y, k) for p, y, k in zip(part.paths, part.labels, part.lesions, strict=True))


def test_each_class_gives_its_share_of_lesions_to_validation():
    _, validation = split_by_lesion(_make_examples([300, 50, 10]), 0.3, seed=0)
    lesions = [len(set(validation.lesions[validation.labels == c])) for c in range(3)]
    assert lesions == [90, 15, 3]


def test_the_seed_determines_the_split():
    examples = _make_examples([30, 20])
    first, again, other = (split_by_lesion(examples, 0.3, seed)[1].paths.tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_the_real_data_set_is_split_completely(isic2018):
    examples = read_isic(isic2018)
    training, validation = split_by_lesion(examples, 0.3, seed=0)
    assert len(training) + len(validation) == 10_015
    assert len(set(training.lesions)) + len(set(validation.lesions)) == 7_470
    assert abs(len(validation) / 10_015 - 0.3) < 0.01


def test_a_lesion_with_two_classes_is_refused():
    names = np.array(["a", "b", "c"])
    examples = Examples(names, np.array([0, 1, 1]), np.array(["L", "L", "M"]), names, ("A", "B"))
    with pytest.raises(DataError, match="lesion L is B here and A at a"):
        split_by_lesion(examples, 0.3, seed=0)


def test_the_error_for_too_few_lesions_counts_them():
    with pytest.raises(DataError, match="lesions: A 30, B 1"):
        split_by_lesion(_make_examples([30, 1]), 0.3, seed=0)


@pytest.mark.parametrize(
    ("lesions", "fraction"),
    [([30, 2], 0.1), ([3, 3, 3, 3, 3, 3, 2], 0.3), ([100, 2, 2, 2, 2, 2, 2], 0.3), ([2, 9, 9, 9], 0.3), ([2, 2], 0.9)],
)
def test_each_class_has_lesions_in_both_subsets_however_few_it_has(lesions, fraction):
    """For instance 6 validation lesions of 20 would be shared among 7 classes, or 30 of 34 be of the first class."""
    examples = _make_examples(lesions)
    training, validation = split_by_lesion(examples, fraction, seed=0)
    assert set(training.labels) == set(validation.labels) == set(range(len(lesions)))
    assert set(training.lesions).isdisjoint(validation.lesions)
    assert len(training) + len(validation) == len(examples)
    assert set(split_by_lesion(examples, fraction, seed=0)[1].names) == set(validation.names)


def test_unknown_lesions_are_counted_as_images_in_errors():
    names = np.array([f"{i}.jpg" for i in range(5)])
    stems = np.array([str(i) for i in range(5)])
    examples = Examples(names, np.array([0, 0, 0, 0, 1], np.int32), stems, names, ("A", "B"))
    with pytest.raises(DataError, match=r"cannot split by image \(images: A 4, B 1; lesions unknown\): each class"):
        split_by_lesion(examples, 0.3, seed=0)
    with pytest.raises(
        DataError, match=r"cannot make 2 folds by image \(images: A 4, B 1; lesions unknown\): each class"
    ):
        _split(examples, "fold:1/2")


def test_given_sides_are_used_unless_another_split_is_chosen():
    examples = _make_examples([30, 20])
    with pytest.raises(DataError, match="data.split is 'given', but the data have no split"):
        _split(examples, "given")
    subsets = np.where(np.arange(len(examples)) % 3 == 0, "validation", "training")
    examples = replace(examples, subsets=subsets)
    for split in ("lesion", "given"):
        training, validation = _split(examples, split)
        assert training.paths.tolist() == examples.paths[subsets == "training"].tolist()
        assert validation.paths.tolist() == examples.paths[subsets == "validation"].tolist()
    assert len(_split(examples, "last:0.3")[1]) == int(0.3 * len(examples))
    with pytest.raises(
        DataError,
        match="data.split=given leaves .* 0 for validation: the data assign no image to the other subset; assign some",
    ):
        _split(examples.take(np.flatnonzero(subsets == "training")), "lesion")


def _split(examples, split, seed=0):
    return split_examples(examples, split, val_fraction=0.3, seed=seed)


def test_each_lesion_is_held_out_in_one_fold():
    examples = _make_examples([300, 50, 10])
    folds = [_split(examples, f"fold:{k}/5") for k in range(1, 6)]
    for training, validation in folds:
        assert count_crossing_lesions(training, validation) == 0
        assert len(training) + len(validation) == len(examples)
        assert [len(set(validation.lesions[validation.labels == c])) for c in range(3)] == [60, 10, 2]
    assert sorted(np.concatenate([v.paths for _, v in folds])) == sorted(examples.paths)
    assert _split(examples, "fold:1/5", seed=1)[1].paths.tolist() != folds[0][1].paths.tolist()


def test_the_articles_splits_hold_out_the_first_or_the_last_rows_of_the_table():
    examples = _make_examples([20, 13])
    n = int(0.3 * len(examples))
    training, validation = _split(examples, "last:0.3")
    assert [*training.paths, *validation.paths] == examples.paths.tolist()
    assert len(validation) == n
    training, validation = _split(examples, "first:0.3")
    assert [*validation.paths, *training.paths] == examples.paths.tolist()
    assert len(validation) == n


def test_per_class_equals_validation_split_of_keras(tmp_path):
    from keras.src.legacy.preprocessing.image import ImageDataGenerator
    from PIL import Image

    examples = _make_examples([20, 13, 4], images=(1,))
    for path, label in zip(examples.paths, examples.labels, strict=True):
        (tmp_path / "ABC"[label]).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "ABC"[label] / path)
    flow = ImageDataGenerator(validation_split=0.3).flow_from_directory(tmp_path, (8, 8), subset="validation")
    expected = sorted(name.rpartition("/")[2] for name in flow.filenames)
    assert sorted(_split(examples, "per_class:0.3")[1].paths) == expected


def test_a_split_is_reproduced_from_its_table(tmp_path):
    examples = _make_examples([30, 20])
    training, validation = _split(examples, "lesion")
    (tmp_path / "splits.csv").write_text(format_split(training, validation))
    again = _split(examples, str(tmp_path / "splits.csv"), seed=7)
    assert [part.paths.tolist() for part in again] == [training.paths.tolist(), validation.paths.tolist()]


def test_cells_of_a_split_are_no_formulas_and_its_rows_are_sorted(tmp_path):
    examples = Examples(
        np.array(["=2.jpg", "=1.jpg"]), np.array([0, 1], np.int32), np.array(["-l", "+l"]), np.array(["a", "b"]),
        ("@A", "=B"),
    )  # fmt: skip
    rows = format_split(examples, examples.take(np.arange(0))).splitlines()
    assert rows[1:] == ["'=1,training,'=B,'+l", "'=2,training,'@A,'-l"]


def test_a_table_of_a_split_may_write_accents_in_another_form(tmp_path):
    examples = _make_examples([30, 20])
    examples.paths[0] = f"{unicodedata.normalize('NFC', 'ä')}.jpg"
    table = format_split(*_split(examples, "lesion"))
    (tmp_path / "splits.csv").write_text(unicodedata.normalize("NFD", table), "utf-8")
    training, _ = _split(examples, str(tmp_path / "splits.csv"))
    assert format_split(training, _) == table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,side\n", "splits.csv:1: the columns are .* image and split are required"),
        ("image,split\n0,test\n", "splits.csv:2: split is 'test', not one of training, validation"),
        ("image,split\n0,training\n0,training\n", "splits.csv:3: 0 is in an earlier line already"),
        ("split,image\ntraining\n", "splits.csv:2: the image is empty"),
        ("image,split\n0\n", "splits.csv:2: split is '', not one of"),
        ("image,split\n0,training\n", "lacks 1 and 1 other: add the rows"),
        (
            "image,split\n0,training\n1,training\n2,validation\n3,training\n",
            "the data lack 3, which .*csv names: remove the rows",
        ),
        ("image,split\n0,training\n1,training\n2,training\n", "3 images for training, 0 for validation"),
    ],
)
def test_faults_in_a_split_table_are_reported_with_their_place(tmp_path, table, message):
    names = np.array(["0.jpg", "1.jpg", "2.jpg"])
    examples = Examples(names, np.zeros(3, np.int32), names, names, ("A",))
    (tmp_path / "splits.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        _split(examples, str(tmp_path / "splits.csv"))


def test_the_error_for_too_few_lesions_for_the_folds_counts_them():
    with pytest.raises(DataError, match="cannot make 5 folds by lesion .lesions: A 30, B 4"):
        _split(_make_examples([30, 4]), "fold:1/5")


@pytest.mark.parametrize("split", ["", "leson", "fold:0/5", "fold:6/5", "fold:1/1", "last", "last:1", "random:0.3"])
def test_unknown_splits_are_refused_with_the_known_ones(split):
    with pytest.raises(DataError, match="lesion, fold:K/N .K from 1 to N., last:S, first:S, per_class:S"):
        _split(_make_examples([30, 20]), split)


def test_a_share_without_images_is_refused():
    with pytest.raises(DataError, match="0 for validation"):
        _split(_make_examples([30, 20]), "last:0.001")
