import numpy as np
import pytest

from input_pipeline import DataError, Examples, split_by_lesion


def _examples(lesions_of_class, images=(1, 2, 3)):
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
    examples = _examples([300, 50, 10])
    training, validation = split_by_lesion(examples, 0.3, seed=0)
    assert not set(training.lesions) & set(validation.lesions)
    assert sorted([*training.paths, *validation.paths]) == sorted(examples.paths)
    for part in (training, validation):
        known = dict(zip(examples.paths, zip(examples.labels, examples.lesions, strict=True), strict=True))
        assert all(known[p] == (y, k) for p, y, k in zip(part.paths, part.labels, part.lesions, strict=True))


def test_each_class_gives_its_share_of_lesions():
    _, validation = split_by_lesion(_examples([300, 50, 10]), 0.3, seed=0)
    lesions = [len(set(validation.lesions[validation.labels == c])) for c in range(3)]
    assert lesions == [90, 15, 3]


def test_the_seed_decides():
    examples = _examples([30, 20])
    first, again, other = (split_by_lesion(examples, 0.3, seed)[1].paths.tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_real_data_set_splits_as_it_should():
    from input_pipeline import read_isic
    from tests.conftest import _shared

    examples = read_isic(_shared("data/isic2018_task3"))
    training, validation = split_by_lesion(examples, 0.3, seed=0)
    assert len(training) + len(validation) == 10_015
    assert len(set(training.lesions)) + len(set(validation.lesions)) == 7_470
    assert abs(len(validation) / 10_015 - 0.3) < 0.01


def test_a_lesion_of_two_classes_is_refused():
    names = np.array(["a", "b", "c"])
    examples = Examples(names, np.array([0, 1, 1]), np.array(["L", "L", "M"]), names, ("A", "B"))
    with pytest.raises(DataError, match="lesion L is B here and A at a"):
        split_by_lesion(examples, 0.3, seed=0)


def test_a_share_that_leaves_a_class_out_of_validation_is_refused():
    with pytest.raises(DataError, match="lesions: A 30, B 2"):
        split_by_lesion(_examples([30, 2]), 0.1, seed=0)


def test_too_few_lesions_are_counted():
    with pytest.raises(DataError, match="lesions: A 30, B 1"):
        split_by_lesion(_examples([30, 1]), 0.3, seed=0)
