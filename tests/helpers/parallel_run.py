"""Trains in float64 on any number of devices and processes, and saves parameters, statistics and metrics.

    python -m tests.helpers.parallel_run DATA WEIGHTS EPOCHS OUT.npz [COORDINATOR PROCESSES NUMBER]

An epoch has three steps and an evaluation.
"""

import sys

import jax
import numpy as np

from configs.mobilenet import get_config
from mobilenet_jax.cluster import connect_processes, is_first_process
from mobilenet_jax.training.data import load_examples
from mobilenet_jax.training.history import History
from mobilenet_jax.training.loop import compute_validation_metrics, make_feed, make_record
from mobilenet_jax.training.preemption import StopRequest
from mobilenet_jax.training.profiling import Profiler
from mobilenet_jax.training.setup import build_program, count_steps_per_epoch
from mobilenet_jax.training.trainer import RunLength, Trainer


def main(data: str, weights: str, epochs: str, out: str, coordinator: str | None = None, *numbers: str) -> None:
    """Connects the processes, and trains."""
    connect_processes(coordinator, *(map(int, numbers) if numbers else (None, None)))
    jax.config.update("jax_enable_x64", True)
    train(data, weights, int(epochs), out)


def train(data: str, weights: str, epochs: int, out: str) -> None:
    """Trains, and saves the results in the first process."""
    config = get_config("isic2018")
    config.update_from_flattened_dict(
        {
            "data.dir": data, "data.image_size": 64, "init.weights": weights, "model.alpha": 0.25,
            "model.head": "small", "train.batch_size": 8, "train.epochs": epochs, "train.precision": "float64",
            "augment.mixup": 0.2, "augment.cutmix": 1.0, "augment.crop_area": 0.5, "loss.focal_gamma": 1.0,
            "loss.class_weights": "effective", "loss.weights_from_epoch": 1, "loss.logit_adjustment": 0.5,
            "optimizer.block_rate_decay": 0.9,
        }
    )  # fmt: skip
    training, validation = load_examples(config.data, config.model.num_classes, config.seed)
    steps_per_epoch = count_steps_per_epoch(config.train.batch_size, len(training))
    program, state, input_scaling = build_program(config, training.labels, steps_per_epoch)
    state = jax.tree.map(lambda x: x.astype("float64") if x.dtype == np.float32 else x, state)
    history = History([], list(training.class_names), input_scaling)
    feed = make_feed(config, training, validation, input_scaling)
    length = RunLength(config.train.epochs, steps_per_epoch, config.train.batch_size)
    # Repeats the epoch loop of `mobilenet_jax/training/loop.py` in float64, which is not a choice of `train.precision`:
    # the rounding is then too small to hide an error that depends on the number of devices.
    with StopRequest() as stop_request:
        trainer = Trainer(program.train_step, program.schedule, feed, length, stop_request, Profiler(None))
        while history.epoch < config.train.epochs:
            state, speed = trainer.train_epoch(state, history, 1.0)
            metrics = compute_validation_metrics(program.eval_step, state, feed.iterate_validation(history.epoch))
            history.finish_epoch(make_record(history, int(state.step), metrics, 0.0, 0.0, speed))
    statistics = program.estimate_statistics(state, feed.iterate_statistics(len(training)))
    tensors = jax.tree.leaves((state.params, state.batch_stats, statistics))
    metrics = [[r[f"val_{name}"] for name in ("accuracy", "balanced_accuracy", "loss")] for r in history.records]
    if is_first_process():
        np.savez(out, *tensors, devices=jax.device_count(), step=state.step, metrics=metrics)


if __name__ == "__main__":
    main(*sys.argv[1:])
