"""The training steps of an epoch: dispatching them, and collecting their results."""

import collections
import logging
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mobilenet_jax.errors import TrainingError
from mobilenet_jax.sharding import gather_to_host
from mobilenet_jax.training.feed import BatchFeed
from mobilenet_jax.training.history import History
from mobilenet_jax.training.preemption import StopRequest
from mobilenet_jax.training.profiling import Profiler, release_free_memory
from mobilenet_jax.training.progress import ProgressBar
from mobilenet_jax.training.step import BatchResult, DeviceBatch, TrainState

_logger = logging.getLogger(__name__)


class RunLength(NamedTuple):
    """The length of a run.

    Attributes:
        epochs: the number of epochs.
        steps_per_epoch: batches per epoch.
        batch_size: images per batch, over all devices.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int


class Trainer:
    """Runs the training steps of a run, one epoch per call."""

    def __init__(
        self,
        train_step: Any,
        schedule: optax.Schedule,
        feed: BatchFeed,
        length: RunLength,
        stop_request: StopRequest,
        profiler: Profiler,
    ):
        """Initializes the trainer; nothing is compiled or read yet.

        Args:
            train_step: the jitted function of `make_train_step`; it is compiled at the first step.
            schedule: the learning rate of each step, reported if the loss diverges.
            feed: the batches.
            length: the length of the whole run.
            stop_request: checked after every step.
            profiler: notified before every step.
        """
        self._train_step, self._schedule, self._feed, self._length = train_step, schedule, feed, length
        self._stop_request, self._profiler = stop_request, profiler
        self._batches: Iterator[DeviceBatch] | None = None  # created at the first step, which may be within an epoch
        self._first_step: int | None = None  # where this process starts; not 0 if it restored a checkpoint
        self._start = time.perf_counter()
        self._seconds_compiled = 0.0

    def train_epoch(self, state: TrainState, history: History, scale: float) -> tuple[TrainState, dict[str, float]]:
        """Runs the remaining steps of the current epoch, or those until a stop is requested.

        The results of a step are collected after the next step was dispatched. Collecting blocks until the step is
        finished; one step late, the devices always have work. More than one step late would gain nothing, and keep more
        batches in memory.

        Args:
            state: the current state; it is donated.
            history: receives the results of every step. The epoch is complete if it has all of them afterwards.
            scale: the multiplier of the learning rate.

        Returns:
            The next state, and the speed of the steps without their compilation: `images_per_second` and `input_wait`,
            the fraction of the time spent waiting for batches. Both are 0 if no step remained.

        Raises:
            TrainingError: the objective is infinite or NaN.
        """
        start, waited, steps_before = time.perf_counter(), self._feed.seconds_waited, history.steps_done
        compiled = self._seconds_compiled
        in_flight: collections.deque[tuple[BatchResult, jax.Array]] = collections.deque()
        epoch_start = history.epoch * self._length.steps_per_epoch
        if self._first_step is None:
            self._first_step = epoch_start + steps_before
        progress = ProgressBar(
            f"epoch {history.epoch + 1}/{self._length.epochs}",
            batch_size=self._length.batch_size,
            steps=self._length.steps_per_epoch,
            steps_done=steps_before,
        )
        with self._profiler.trace_epoch(), progress as bar:
            for step in range(epoch_start + steps_before, epoch_start + self._length.steps_per_epoch):
                self._profiler.start_step(state)
                batch = self._get_batch(state, step, scale)
                state, result, objective = self._train_step(state, batch, jnp.float32(scale))
                in_flight.append((result, objective))
                if len(in_flight) > 1:
                    self._collect_step(*in_flight.popleft(), history, scale, bar)
                self._stop_request.end_step()
                if self._stop_request.is_set:
                    break
            while in_flight:
                self._collect_step(*in_flight.popleft(), history, scale, bar)
        seconds = time.perf_counter() - start - (self._seconds_compiled - compiled)
        images = (history.steps_done - steps_before) * self._length.batch_size
        return state, {
            "images_per_second": round(images / seconds, 1),
            "input_wait": round((self._feed.seconds_waited - waited) / seconds, 3),
        }

    def check_epoch(self, state: TrainState, val_metrics: Mapping[str, float], history: History, scale: float) -> None:
        """Checks that the last update of an epoch left the model finite; a step computes its loss before its update.

        Args:
            state: the state after the epoch.
            val_metrics: its validation metrics; empty without validation images.
            history: the history of the run.
            scale: the multiplier of the learning rate.

        Raises:
            TrainingError: the validation loss, or without it the norm of the parameters, is infinite or NaN.
        """
        if val_metrics:
            name, value = "validation loss", val_metrics["loss"]
        else:
            name, value = "norm of the parameters", float(jax.jit(optax.tree.norm)(state.evaluated_params))
        self._check_finite(name, value, int(state.step), history, scale)

    def _check_finite(self, name: str, value: float, step: int, history: History, scale: float) -> None:
        """Checks a loss or the norm of the parameters.

        Args:
            name: name of the value in the error.
            value: the value.
            step: the step it was computed in, counted from 1.
            history: the history of the run, for the last checkpoint in the error.
            scale: the multiplier of the learning rate.

        Raises:
            TrainingError: the value is infinite or NaN.
        """
        if math.isfinite(value):
            return
        saved = max(self._first_step or 0, history.records[-1]["step"] if history.records else 0)
        kept = f"the checkpoint of step {saved} is kept" if saved else "no checkpoint has been saved"
        raise TrainingError(
            f"the {name} is {value} at step {step} (epoch {history.epoch + 1}), where the learning rate is "
            f"{float(self._schedule(step - 1)) * scale:g}; {kept}: start again with another --workdir and a lower "
            "config.optimizer.learning_rate, or with config.optimizer.clip_norm=1 if it is 0"
        )

    def _get_batch(self, state: TrainState, step: int, scale: float) -> DeviceBatch:
        """Returns the batch of a step; the first one creates the iterator and compiles the step."""
        if self._batches is None:
            self._batches = self._feed.iterate_training(step, self._length.epochs * self._length.steps_per_epoch)
            batch = next(self._batches)
            self._compile(state, batch, scale)
            return batch
        return next(self._batches)

    def _compile(self, state: TrainState, batch: DeviceBatch, scale: float) -> None:
        """Compiles the train step ahead of its first call, to log how long that takes."""
        start = time.perf_counter()
        self._train_step = self._train_step.lower(state, batch, jnp.float32(scale)).compile()
        release_free_memory()
        now = time.perf_counter()
        self._seconds_compiled = now - start
        _logger.info("first step after %.1f s, including %.1f s of compilation", now - self._start, now - start)

    def _collect_step(
        self, result: BatchResult, objective: jax.Array, history: History, scale: float, bar: ProgressBar
    ) -> None:
        """Blocks until a step is finished, and copies its results to the host."""
        value = float(objective)
        self._check_finite(
            "loss", value, history.epoch * self._length.steps_per_epoch + history.steps_done + 1, history, scale
        )
        history.add_step(gather_to_host(result), value)
        bar.update(history.results[-1])
