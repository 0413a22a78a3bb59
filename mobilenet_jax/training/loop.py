"""Runs training: from a configuration to a trained model and its metrics.

`train_and_evaluate` is the whole run from top to bottom; the functions below it are its steps.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from input_pipeline.batches import BatchOptions, ShardOptions
from input_pipeline.cache import Cache, open_cache
from input_pipeline.examples import Examples
from input_pipeline.preprocessing import InputScaling
from input_pipeline.splits import format_split
from mobilenet_jax.cluster import broadcast, is_first_process
from mobilenet_jax.errors import Interrupted, WorkdirError
from mobilenet_jax.sharding import gather_to_host
from mobilenet_jax.training.checkpoints import MAX_CHECKPOINTS, Checkpoints, has_checkpoints
from mobilenet_jax.training.config import check_config
from mobilenet_jax.training.data import add_soft_labels, check_same_data, check_validation, load_examples
from mobilenet_jax.training.epoch_metrics import compute_epoch_metrics
from mobilenet_jax.training.feed import BatchFeed
from mobilenet_jax.training.history import History, Record, compute_stored_score, find_best, find_early_stop
from mobilenet_jax.training.optimizer import compute_plateau_scale
from mobilenet_jax.training.preemption import StopRequest
from mobilenet_jax.training.profiling import Profiler, measure_memory, release_free_memory
from mobilenet_jax.training.setup import (
    Program,
    build_program,
    count_steps_per_epoch,
    format_parameters,
    get_preprocessing,
    make_augmentation,
    resolve_config,
    warn_of_contradictions,
)
from mobilenet_jax.training.step import BatchResult, DeviceBatch, TrainState
from mobilenet_jax.training.trainer import RunLength, Trainer
from mobilenet_jax.training.workdir import Workdir, check_workdir
from mobilenet_jax.weights.orbax import CHECKPOINTS

_logger = logging.getLogger(__name__)
_INTERRUPTED = "stopped at step {} and saved: the same command continues from there"


def train_and_evaluate(config: ConfigDict, workdir: str | Path, *, profile: bool = False) -> dict[str, Any]:
    """Trains a model, evaluates it after every epoch, and writes metrics and checkpoints to `workdir`.

    Called again with the same workdir, it continues after the last saved step. On a CPU the results are bitwise
    identical to those of an uninterrupted run. In a cluster every process calls this function, and the first one
    writes.

    Args:
        config: as returned by `configs/mobilenet.py`.
        workdir: a folder that does not exist, is empty, or holds an earlier part of this run.
        profile: whether to write a trace of ten steps to `workdir/profile`.

    Returns:
        The content of `summary.json`: the records of the `best` and the `last` epoch, sizes of data and model, seconds.

    Raises:
        ConfigError, DataError, EvaluationError, WeightsError, WorkdirError: the inputs are invalid; raised before the
            first step, unless the images or the disk change during the run.
        TrainingError: the loss or a parameter became infinite or NaN.
        Interrupted: a stop was requested, and the state is saved.
    """
    check_config(config)
    workdir = Path(workdir)

    # Data, model and state of a new run.
    training, validation = load_examples(config.data, config.model.num_classes, config.seed)
    check_validation(config, validation)
    training = add_soft_labels(training, config.loss)
    fingerprints = [examples.compute_fingerprint() for examples in (training, validation)]
    check_same_data(fingerprints)  # before arrays whose shapes depend on the data are distributed
    steps_per_epoch = count_steps_per_epoch(config.train.batch_size, len(training))
    config = resolve_config(config, training, steps_per_epoch)
    warn_of_contradictions(config)
    if is_first_process():
        check_workdir(workdir, config.to_dict())  # before the images are decoded for a cache
    is_new = not broadcast(np.bool_(has_checkpoints(workdir / CHECKPOINTS)))
    program, state, scaling = build_program(config, training.labels, steps_per_epoch, pretrained=is_new)
    release_free_memory()  # returns the memory that compiling the initialization took
    history = History(fingerprints, list(training.class_names), scaling)
    paths = np.concatenate([training.paths, validation.paths])
    cache = open_cache(config.data.cache, paths, config.data.image_size, get_preprocessing(config.data))

    checkpoint_bytes = sum(x.nbytes for x in jax.tree.leaves(state))
    compute_score = functools.partial(compute_stored_score, settings=config.early_stopping)
    with (
        StopRequest() as stop_request,  # until the last save is complete
        Workdir(workdir, config.to_dict(), MAX_CHECKPOINTS * checkpoint_bytes) as files,
        Checkpoints(workdir / CHECKPOINTS, compute_score) as checkpoints,
    ):
        # Resume, if there is a checkpoint; its input scaling is that of all batches.
        if restored := checkpoints.restore(state):
            state, history = resume(*restored, history, workdir, config)
        elif not is_new:  # the initial weights were not read
            raise WorkdirError(f"no checkpoint in {workdir / 'checkpoints'} was readable: start again for a new run")
        files.write_inputs(format_split(training, validation), format_parameters(program.model, state.params))
        feed = make_feed(config, training, validation, history.input_scaling, cache)
        profiler = Profiler(workdir / "profile" if profile else None)
        length = RunLength(config.train.epochs, steps_per_epoch, config.train.batch_size)
        trainer = Trainer(program.train_step, program.schedule, feed, length, stop_request, profiler)
        if not is_finished(history, config):
            files.remove_summary()

        # Epochs: train, evaluate, record, save, stop.
        while not is_finished(history, config):
            start = time.perf_counter() - history.seconds
            files.check_space(checkpoint_bytes)
            scale = compute_plateau_scale(config.optimizer, [r.get("val_loss") for r in history.records])
            state, speed = trainer.train_epoch(state, history, scale)
            step = int(state.step)
            statistics = reestimate_statistics(program, state, feed, config.train.reestimate_batch_norm)
            validation_batches = stop_request.iterate_until_set(feed.iterate_validation(history.epoch))
            val_metrics = compute_validation_metrics(program.eval_step, state, validation_batches, statistics)
            if stop_request.is_set:  # the evaluation may be incomplete: the next start repeats it
                history.seconds = time.perf_counter() - start
                checkpoints.save(state, history.to_json(), statistics)
                raise Interrupted(_INTERRUPTED.format(step))
            release_free_memory()  # heap fragmentation otherwise grows by 50 MB in 100,000 steps
            trainer.check_epoch(state, val_metrics, history, scale)
            learning_rate = float(program.schedule(step - 1)) * scale
            record = make_record(history, step, val_metrics, learning_rate, time.perf_counter() - start, speed)
            history.finish_epoch(record)
            checkpoints.save(state, history.to_json(), statistics)
            files.write_metrics(history.records)
            _logger.info(format_record(record, config.train.epochs))
            if stop_request.is_set and not is_finished(history, config):
                raise Interrupted(_INTERRUPTED.format(step))

        profiler.end_run()
        summary = build_summary(history, config, training, validation, state)
        checkpoints.wait_until_saved()  # a run with a summary is finished
        # A finished run that is started again may have lost them.
        files.write_metrics(history.records, is_last=True)
        files.write_summary(summary)
    log_summary(summary, workdir)
    return summary


def resume(
    state: TrainState, stored: dict[str, Any], new: History, workdir: Path, config: ConfigDict
) -> tuple[TrainState, History]:
    """Returns the state and the history of a checkpoint, if the run can continue from it.

    Args:
        state: the restored state.
        stored: the restored history as JSON values.
        new: the history of a new run on the same data, for comparison.
        workdir: the folder that the errors name.
        config: the whole configuration; its number of epochs may have been raised.

    Raises:
        WorkdirError: the history is damaged, the data differ, or more epochs are finished than configured.
    """
    try:
        history = History.from_json(stored)
    except (KeyError, TypeError, ValueError) as error:
        raise WorkdirError(
            f"the history in {workdir / 'checkpoints'} is damaged ({error!r}): use another --workdir"
        ) from error
    if history.data != new.data:
        teacher = config.loss.soft_labels
        data = "images, their labels or their lesions" + f", or the probabilities in {teacher}," * bool(teacher)
        raise WorkdirError(
            f"the {data} are not those of the run in {workdir}: restore them, or choose another --workdir"
        )
    epochs = config.train.epochs
    reached = history.epoch + bool(history.steps_done)
    if reached > epochs:
        raise WorkdirError(
            f"{workdir} has reached epoch {reached}, more than config.train.epochs={epochs}: choose another --workdir"
        )
    if is_finished(history, config):
        stopped_early = find_early_stop(history.records, config.early_stopping) is not None
        is_fixed = stopped_early or config.optimizer.schedule == "cosine"
        hint = "" if is_fixed else "raise config.train.epochs to train longer, or "
        _logger.info("the run in %s is finished: %schoose another --workdir for a new one", workdir, hint)
    else:
        _logger.info("resuming after epoch %d, step %d", history.epoch, int(state.step))
    return state, history


def make_feed(
    config: ConfigDict,
    training: Examples,
    validation: Examples,
    input_scaling: InputScaling,
    cache: Cache | None = None,
) -> BatchFeed:
    """Returns the feed of a run, which reads decoded images from `cache` if there is one."""
    options = BatchOptions(
        image_size=config.data.image_size,
        input_scaling=input_scaling,
        batch_size=config.train.batch_size,
        seed=config.seed,
        cache=cache,
        preprocessing=get_preprocessing(config.data),
        shard=ShardOptions(jax.process_index(), jax.process_count()),
    )
    return BatchFeed(
        training,
        validation,
        options,
        make_augmentation(config.augment),
        sampling=config.data.sampling,
        augment_on=config.augment.where,
        augment_validation=config.augment.on_validation,
    )


def is_finished(history: History, config: ConfigDict) -> bool:
    """Returns whether all epochs are done, or early stopping ends the run."""
    early_stop = find_early_stop(history.records, config.early_stopping)
    return history.epoch >= config.train.epochs or early_stop is not None


def reestimate_statistics(program: Program, state: TrainState, feed: BatchFeed, images: int) -> Any | None:
    """Returns the statistics of batch normalization that a state is evaluated and exported with.

    Args:
        program: holds the estimator.
        state: the current state.
        feed: delivers the training images.
        images: `train.reestimate_batch_norm`.

    Returns:
        As in the collection `batch_stats`; None for the moving statistics of the state, if `images` is 0.
    """
    return program.estimate_statistics(state, feed.iterate_statistics(images)) if images else None


def compute_validation_metrics(
    eval_step: Callable[[TrainState, DeviceBatch], BatchResult],
    state: TrainState,
    batches: Iterable[DeviceBatch],
    statistics: Any | None = None,
) -> dict[str, float]:
    """Computes the metrics of a state over all examples of `batches`; none without batches.

    Args:
        eval_step: see `step.make_eval_step`.
        state: the state.
        batches: the batches to evaluate on.
        statistics: replace those of batch normalization in the state, if given.
    """
    if statistics is not None:
        state = replace(state, batch_stats=statistics)
    results: list[BatchResult] = []
    for batch in batches:
        results.append(eval_step(state, batch))
        jax.block_until_ready(results[-2:-1])  # one step late, as in training
    return compute_epoch_metrics([gather_to_host(result) for result in results]) if results else {}


def make_record(
    history: History,
    step: int,
    val_metrics: dict[str, float],
    learning_rate: float,
    seconds: float,
    speed: dict[str, float],
) -> Record:
    """Returns the record of the current epoch, one line of `metrics.jsonl` (a stable on-disk format).

    Without validation examples, it has no metrics `val_...`.
    """
    return {
        "epoch": history.epoch + 1,
        "step": step,
        **{f"train_{name}": value for name, value in history.compute_training_metrics().items()},
        **{f"val_{name}": value for name, value in val_metrics.items()},
        "learning_rate": learning_rate,
        "seconds": round(seconds, 3),
        **speed,
        "memory_mb": measure_memory(),
    }


def build_summary(
    history: History, config: ConfigDict, training: Examples, validation: Examples, state: TrainState
) -> dict[str, Any]:
    """Returns the content of `summary.json`."""
    return {
        "best": find_best(history.records, config.early_stopping),
        "last": history.records[-1],
        "stopped_early": find_early_stop(history.records, config.early_stopping) is not None,
        "training_images": len(training),
        "validation_images": len(validation),
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "seconds": round(sum(record["seconds"] for record in history.records), 1),
    }


def format_record(record: Record, epochs: int) -> str:
    """Returns the metrics of an epoch as one line."""
    metrics = "   ".join(
        f"{name} loss {record[f'{prefix}_loss']:.4f} accuracy {record[f'{prefix}_accuracy']:.4f} "
        f"balanced {record[f'{prefix}_balanced_accuracy']:.4f}"
        for prefix, name in (("train", "training"), ("val", "validation"))
        if f"{prefix}_loss" in record
    )
    speed = record["images_per_second"]  # 0 if only the evaluation was left
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}   {metrics}   "
        f"{record['seconds']:.1f} s{f', {speed:.0f} images/s' if speed else ''}"
    )


def log_summary(summary: dict[str, Any], workdir: Path) -> None:
    """Logs the best epoch and where the files of the run are."""
    best, last = summary["best"], summary["last"]
    if summary["stopped_early"]:
        _logger.info("stopped early after epoch %d", last["epoch"])
    if "val_loss" in best:
        _logger.info(
            "best: epoch %d, validation balanced accuracy %.4f, accuracy %.4f, loss %.4f",
            best["epoch"], best["val_balanced_accuracy"], best["val_accuracy"], best["val_loss"],
        )  # fmt: skip
    files = ", ".join(str(workdir / name) for name in ("metrics.jsonl", "summary.json", "curves.png"))
    _logger.info("metrics: %s", files)
    _logger.info("checkpoints: %s (latest %d, best %d)", workdir / CHECKPOINTS, last["step"], best["step"])
