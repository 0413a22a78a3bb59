import gc
import itertools
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline import batches as batches_module
from input_pipeline import tf_graph
from input_pipeline.augment import Augmentation, sample_affine, sample_color
from input_pipeline.batches import BatchOptions, ShardOptions, make_eval_batches, make_train_batches, sample_indices
from input_pipeline.errors import DataError
from input_pipeline.image_files import read_image_bytes
from input_pipeline.image_ops import decode_image
from input_pipeline.preprocessing import STRETCH, Preprocessing
from input_pipeline.sources.isic import read_isic

ARTICLE = Augmentation(30, 0.3, 0.3, 0.3, horizontal_flip=True)


@pytest.fixture
def examples(tiny_isic):
    return read_isic(tiny_isic)


def _make_options(**changes):
    return BatchOptions(
        **{"image_size": 32, "input_scaling": (0.0, 1.0), "batch_size": 8, "seed": 0, **changes},
    )


def _train(examples, first_step, last_step, augmentation=ARTICLE, sampling="uniform", **changes):
    options = _make_options(**changes)
    return list(
        make_train_batches(
            examples, augmentation, options, first_step=first_step, last_step=last_step, sampling=sampling
        )
    )


def _evaluate(examples, augmentation=None, epoch=0, **changes):
    return list(make_eval_batches(examples, _make_options(**changes), augmentation=augmentation, epoch=epoch))


def test_training_batches_have_their_documented_shapes_types_and_range(examples):
    [batch] = _train(examples, 0, 1)
    assert batch["image"].shape == (8, 32, 32, 3)
    assert batch["image"].dtype == np.float32
    assert batch["label"].dtype == np.int32
    assert 0 <= batch["image"].min() < batch["image"].max() <= 1
    np.testing.assert_array_equal(batch["label"], examples.labels[batch["index"]])


def test_a_batch_is_a_function_of_seed_and_step(examples):
    whole = _train(examples, 0, 12)
    for step in (0, 4, 5, 11):  # an epoch has 5 steps
        [alone] = _train(examples, step, step + 1)
        for key in alone:
            np.testing.assert_array_equal(alone[key], whole[step][key])
    assert not np.array_equal(_train(examples, 0, 1, seed=1)[0]["index"], whole[0]["index"])


def test_an_epoch_shows_each_image_at_most_once_and_epochs_differ(examples):
    batches = _train(examples, 0, 10)
    first, second = (np.concatenate([b["index"] for b in part]) for part in (batches[:5], batches[5:]))
    assert len(set(first)) == len(set(second)) == 40
    assert not np.array_equal(first, second)


def test_runs_that_start_at_twenty_random_steps_read_the_batches_of_a_whole_run(examples):
    whole = _train(examples, 0, 60)
    for step in np.random.default_rng(0).integers(0, 60, 20):
        for batch, expected in zip(_train(examples, step, min(step + 2, 60)), whole[step:], strict=False):
            for key in expected:
                np.testing.assert_array_equal(batch[key], expected[key])


def test_seeking_to_a_far_step_reads_the_images_of_that_step_only(examples, monkeypatch):
    sampled, read = [], []
    sample, preprocess = batches_module.sample_indices, tf_graph.preprocess
    monkeypatch.setattr(batches_module, "sample_indices", lambda *a: sampled.append(a) or sample(*a))
    monkeypatch.setattr(tf_graph, "preprocess", lambda *a: read.append(a) or preprocess(*a))
    first_step = 10**6  # an epoch has 5 steps
    assert len(_train(examples, first_step, first_step + 2)) == 2
    assert {epoch for _, _, epoch, _ in sampled} == {first_step // 5}
    assert len(read) == 2 * 8


@pytest.mark.parametrize("processes", [2, 4])
def test_batches_do_not_depend_on_the_number_of_processes(examples, processes):
    for make in (
        lambda shard: _train(examples, 3, 8, shard=shard),
        lambda shard: _evaluate(examples, batch_size=16, shard=shard),
    ):
        alone = make(ShardOptions())
        shares = [make(ShardOptions(index, processes)) for index in range(processes)]
        for whole, *parts in zip(alone, *shares, strict=True):
            for key, expected in whole.items():
                np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), expected)


def test_a_batch_size_that_processes_cannot_share_is_refused():
    with pytest.raises(ValueError, match="batch_size 8 is not divisible by 3 processes"):
        _make_options(shard=ShardOptions(0, 3))


def test_a_process_without_examples_gets_as_many_batches_as_the_others(examples):
    few = examples.take(np.arange(3))
    for index, expected in enumerate(([True, True], [True, False], [False] * 2, [False] * 2)):
        for augmentation in (None, ARTICLE):
            [batch] = _evaluate(few, augmentation, shard=ShardOptions(index, 4))
            assert batch["mask"].tolist() == expected
            assert batch["image"].shape == (2, 32, 32, 3)
            assert batch["image"].dtype == np.float32


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_batches_do_not_depend_on_the_number_of_threads(examples, threads, monkeypatch):
    expected = _train(examples, 0, 6)
    monkeypatch.setattr(tf_graph, "_PARALLEL", threads)
    for batch, expected_batch in zip(_train(examples, 0, 6), expected, strict=True):
        for key in expected_batch:
            np.testing.assert_array_equal(batch[key], expected_batch[key])


@pytest.mark.parametrize("batches", [1, 9])
def test_a_plan_is_freed_at_the_end_of_its_iteration(batches):
    """TensorFlow keeps each function that it is given until the process ends."""
    images = np.zeros((3, 32, 32, 3), np.uint8)

    class Plan:
        def __call__(self):
            for _ in range(3):
                yield {"source": np.arange(3), "mask": np.ones(3, bool)}

    plan = Plan()
    alive = weakref.ref(plan)
    iterator = tf_graph.run_plan(plan, 32, 3, None, images, STRETCH)
    del plan
    assert len(list(itertools.islice(iterator, batches))) == min(batches, 3)
    iterator.close()
    gc.collect()
    assert alive() is None


def test_an_image_that_is_damaged_during_the_run_is_reported_without_the_names_of_operations(examples):
    with open(examples.paths[3], "r+b") as file:
        file.truncate(300)
    message = r"^an image changed or disappeared during the run \(Invalid JPEG data.*\): start again for a validation"
    with pytest.raises(DataError, match=message):
        _evaluate(examples)


def test_an_image_that_is_removed_during_the_run_is_reported(examples):
    Path(examples.paths[3]).unlink()
    with pytest.raises(DataError, match=r"^an image changed or disappeared during the run \(.*No such file"):
        _evaluate(examples)


def test_without_augmentation_training_and_evaluation_see_the_same_images(examples):
    plain = np.concatenate([batch["image"] for batch in _evaluate(examples)])
    [batch] = _train(examples, 0, 1, augmentation=Augmentation())
    np.testing.assert_allclose(batch["image"], plain[batch["index"]], atol=1e-6)


def test_evaluation_batches_hold_every_example_once_in_order(examples):
    batches = _evaluate(examples, batch_size=16)
    assert [b["mask"].sum() for b in batches] == [16, 16, 10]
    assert all(b["image"].shape == (16, 32, 32, 3) for b in batches)
    labels, mask = (np.concatenate([b[k] for b in batches]) for k in ("label", "mask"))
    np.testing.assert_array_equal(labels[mask], examples.labels)


@pytest.mark.parametrize("size", [20, 32, 60])
def test_resizing_keeps_the_mean_color(examples, size):
    [batch] = _evaluate(examples, image_size=size, batch_size=42)
    for path, resized in zip(examples.paths, batch["image"], strict=True):
        original = np.asarray(Image.open(path), np.float32).mean((0, 1)) / 255
        np.testing.assert_allclose(resized.mean((0, 1)), original, atol=0.01)


def test_pixels_are_scaled_to_any_range(examples):
    for make in (
        lambda input_scaling: _evaluate(examples, batch_size=42, input_scaling=input_scaling),
        lambda input_scaling: _train(examples, 0, 1, input_scaling=input_scaling),
    ):
        [plain], [scaled] = make((0.0, 1.0)), make((-1.0, 1.0))
        np.testing.assert_array_equal(scaled["image"], 2 * plain["image"] - 1)


def test_augmented_validation_differs_between_epochs_and_from_training(examples):
    def read_images(**options):
        return np.concatenate([b["image"][b["mask"]] for b in _evaluate(examples, batch_size=16, **options)])

    plain = read_images()
    first, again, second = (read_images(augmentation=ARTICLE, epoch=epoch) for epoch in (0, 0, 1))
    assert len(first) == len(examples)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, plain)
    assert not np.allclose(first, second)
    np.testing.assert_allclose(read_images(augmentation=Augmentation()), plain, atol=1e-6)
    colors = [read_images(augmentation=Augmentation(brightness=0.5), epoch=epoch) for epoch in (0, 1)]
    assert not np.allclose(*colors)
    [trained] = _train(examples, 0, 1, batch_size=42)
    assert not np.allclose(trained["image"][np.argsort(trained["index"])], first)


def test_training_batches_have_augmented_colors(examples):
    [plain], [dark] = (
        _train(examples, 0, 1, augmentation) for augmentation in (Augmentation(), Augmentation(brightness=1.0))
    )
    factors = dark["image"].mean((1, 2, 3)) / plain["image"].mean((1, 2, 3))
    assert factors.min() < 0.7
    assert len(np.unique(factors.round(3))) == 8


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_each_image_has_the_parameters_of_its_seed_and_epoch(examples, sampling):
    augmentation = Augmentation(30, brightness=0.2, saturation=0.2)
    for seed, step in ((0, 2), (3, 7)):  # an epoch has 5 steps
        epoch, position = divmod(step, 5)
        [batch] = make_train_batches(
            examples, augmentation, _make_options(seed=seed), first_step=step, last_step=step + 1,
            augment_on="device", sampling=sampling,
        )  # fmt: skip
        rows = batch["index"] if sampling == "uniform" else np.arange(8 * position, 8 * position + 8)
        np.testing.assert_array_equal(batch["affine"], sample_affine(augmentation, seed, epoch, 42, 32)[rows])
        np.testing.assert_array_equal(batch["color"], sample_color(augmentation, seed, epoch, 42)[rows])


def test_each_image_has_its_soft_label(examples):
    soft = np.random.default_rng(0).dirichlet(np.ones(7), len(examples)).astype(np.float32)
    for batch in _train(replace(examples, soft_labels=soft), 0, 6):
        np.testing.assert_array_equal(batch["soft_label"], soft[batch["index"]])


def test_images_are_preprocessed_in_training_and_evaluation(examples):
    crop = Preprocessing(resize="crop", color_constancy="shades_of_gray")
    for path in examples.paths:
        Image.open(path).resize((60, 40)).save(path)
    expected = [decode_image(read_image_bytes(path), (32, 32), crop).pixels / 255 for path in examples.paths]
    [evaluated] = _evaluate(examples, preprocessing=crop, batch_size=42)
    np.testing.assert_allclose(evaluated["image"], expected, atol=1e-6)
    [trained] = _train(examples, 0, 1, Augmentation(), preprocessing=crop)
    np.testing.assert_allclose(trained["image"], np.array(expected)[trained["index"]], atol=1e-6)


def test_balanced_sampling_visits_each_class_equally_often_and_augments_repeated_examples_differently(examples):
    labels = np.repeat([0, 1, 3], [900, 90, 10])  # class 2 does not occur
    orders = [sample_indices(labels, 0, epoch, "balanced") for epoch in range(20)]
    counts = np.bincount(labels[np.concatenate(orders)])
    assert counts[2] == 0
    np.testing.assert_allclose(counts[[0, 1, 3]] / 20_000, 1 / 3, atol=0.02)
    assert not np.array_equal(orders[0], orders[1])
    few = examples.take(np.array([*range(30), 40]))
    batches = _train(few, 0, 3, sampling="balanced")
    index, images = (np.concatenate([b[key] for b in batches]) for key in ("index", "image"))
    assert (index == 30).sum() > 2, "the only example of its class is repeated"
    first, second, *_ = images[index == 30]
    assert np.abs(first - second).mean() > 0.01
