import numpy as np
import pytest

from input_pipeline.batches import sample_indices
from mobilenet_jax.training.data import load_examples
from mobilenet_jax.training.loop import make_feed
from tests.helpers.runs import make_config


def _make_feed(data, **changes):
    config = make_config(data, **changes)
    training, validation = load_examples(config.data, 7, seed=0)
    return make_feed(config, training, validation, (0, 1)), training


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_training_batches_follow_the_sampling_and_the_seed_of_the_configuration(data, sampling):
    feed, training = _make_feed(data, data__sampling=sampling, seed=3)
    labels = np.concatenate([batch["label"] for batch in feed.iterate_training(0, 3)])
    np.testing.assert_array_equal(labels, training.labels[sample_indices(training.labels, 3, 0, sampling)[:24]])


def test_validation_images_are_augmented_only_if_the_configuration_says_so(data):
    for is_augmented in (False, True):
        feed, _ = _make_feed(data, augment__on_validation=is_augmented)
        first, second = (np.asarray(next(iter(feed.iterate_validation(epoch)))["image"]) for epoch in (0, 1))
        assert np.array_equal(first, second) != is_augmented


def test_statistics_are_estimated_on_images_of_all_classes(data):
    feed, training = _make_feed(data)
    assert len(set(training.labels[:8])) < 4, "the images are sorted by class"
    first, again = ([np.asarray(batch["image"]) for batch in feed.iterate_statistics(8)] for _ in range(2))
    labels = np.concatenate([np.asarray(batch["label"]) for batch in feed.iterate_statistics(8)])
    assert len(set(labels.tolist())) >= 4
    np.testing.assert_array_equal(first, again)
