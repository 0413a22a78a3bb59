"""Puts the batches of `input_pipeline` on the devices: shards them and, if configured, augments them there."""

import time
from collections.abc import Iterator

from input_pipeline.augment import Augmentation
from input_pipeline.batches import (
    AugmentOn,
    BatchOptions,
    Sampling,
    make_eval_batches,
    make_train_batches,
    sample_indices,
)
from input_pipeline.examples import Examples
from mobilenet_jax.sharding import make_data_mesh, shard_batch
from mobilenet_jax.training.device_augment import make_device_augment
from mobilenet_jax.training.step import DeviceBatch


class BatchFeed:
    """Iterates over the batches of a run.

    Attributes:
        seconds_waited: the time spent waiting for training batches so far.
    """

    def __init__(
        self,
        training: Examples,
        validation: Examples,
        options: BatchOptions,
        augmentation: Augmentation,
        *,
        sampling: Sampling,
        augment_on: AugmentOn,
        augment_validation: bool,
    ):
        """Initializes the feed; nothing is read yet.

        Args:
            training: the training examples.
            validation: the validation examples.
            options: the options of all batches.
            augmentation: the augmentation of the training images.
            sampling: the frequencies of the classes in training.
            augment_on: the place of the augmentation.
            augment_validation: whether validation images are augmented too.
        """
        self._training, self._validation = training, validation
        self._options, self._augmentation = options, augmentation
        self._sampling, self._augment_on = sampling, augment_on
        self._validation_augmentation = augmentation if augment_validation else None
        self._mesh = make_data_mesh()
        self._device_augment = None
        if augment_on == "device":
            self._device_augment = make_device_augment(augmentation, options.input_scaling)
        self.seconds_waited = 0.0

    def iterate_training(self, first_step: int, last_step: int) -> Iterator[DeviceBatch]:
        """Yields the batches of steps `first_step` up to, but not including, `last_step`."""
        batches = make_train_batches(
            self._training,
            self._augmentation,
            self._options,
            first_step=first_step,
            last_step=last_step,
            augment_on=self._augment_on,
            sampling=self._sampling,
        )
        for _ in range(first_step, last_step):
            start = time.perf_counter()
            batch = shard_batch(self._mesh, next(batches))
            self.seconds_waited += time.perf_counter() - start
            yield self._device_augment(batch) if self._device_augment else batch

    def iterate_statistics(self, images: int) -> Iterator[DeviceBatch]:
        """Yields whole batches of training images without augmentation, the same ones at every call.

        They are the first images of a permutation keyed by the seed.

        Args:
            images: an upper bound of their number, but at least one batch is yielded.
        """
        size = self._options.batch_size
        batches = max(1, min(images, len(self._training)) // size)
        order = sample_indices(self._training.labels, self._options.seed, epoch=0)
        for batch in make_eval_batches(self._training.take(order[: batches * size]), self._options):
            yield shard_batch(self._mesh, batch)

    def iterate_validation(self, epoch: int) -> Iterator[DeviceBatch]:
        """Yields every validation example once; `epoch` selects the augmentation, if validation is augmented."""
        batches = make_eval_batches(
            self._validation, self._options, augmentation=self._validation_augmentation, epoch=epoch
        )
        for batch in batches:
            yield shard_batch(self._mesh, batch)
