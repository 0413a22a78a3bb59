"""Measures what the re-estimation of the statistics of batch normalization adds to an epoch.

    python -m benchmarks.reestimation > benchmarks/results/reestimation.md

Each round trains an epoch of `configs/mobilenet.py`, re-estimates and evaluates, and times the three.
"""

import os
import platform
import statistics
import time
from importlib.metadata import version

import numpy as np

from configs.mobilenet import get_config
from mobilenet_jax.training.data import load_examples
from mobilenet_jax.training.history import History
from mobilenet_jax.training.loop import compute_validation_metrics, make_feed, make_record, reestimate_statistics
from mobilenet_jax.training.preemption import StopRequest
from mobilenet_jax.training.profiling import Profiler
from mobilenet_jax.training.setup import build_program, count_steps_per_epoch, resolve_config
from mobilenet_jax.training.trainer import RunLength, Trainer

ROUNDS = 9


def main() -> None:
    """Trains and prints a table."""
    config = get_config()
    training, validation = load_examples(config.data, config.model.num_classes, config.seed)
    steps = count_steps_per_epoch(config.train.batch_size, len(training))
    config = resolve_config(config, training, steps)
    program, state, scaling = build_program(config, training.labels, steps)
    history = History([], list(training.class_names), scaling)
    feed = make_feed(config, training, validation, scaling)
    rows = []
    with StopRequest() as stop_request:
        length = RunLength(config.train.epochs, steps, config.train.batch_size)
        trainer = Trainer(program.train_step, program.schedule, feed, length, stop_request, Profiler(None))
        for _ in range(ROUNDS + 2):  # the first ones compile
            times = [time.perf_counter()]
            state, speed = trainer.train_epoch(state, history, 1.0)
            times.append(time.perf_counter())
            moments = reestimate_statistics(program, state, feed, config.train.reestimate_batch_norm)
            times.append(time.perf_counter())
            metrics = compute_validation_metrics(
                program.eval_step, state, feed.iterate_validation(history.epoch), moments
            )
            times.append(time.perf_counter())
            history.finish_epoch(make_record(history, int(state.step), metrics, 0.0, 0.0, speed))
            rows.append(np.diff(times))
    print(
        f"`python -m benchmarks.reestimation`, jax {version('jax')}, Python {platform.python_version()}, "
        f"{os.cpu_count()} CPU cores; {len(training)} training and {len(validation)} validation images, "
        f"at most {config.train.reestimate_batch_norm} of the training images for the statistics\n\n"
        "| round | training, s | re-estimation, s | evaluation, s | epoch with re-estimation / without |\n"
        + "|---" * 5
        + "|"
    )
    ratios = []
    for number, (train, estimate, validate) in enumerate(rows[2:], 1):
        ratios.append((train + estimate + validate) / (train + validate))
        print(f"| {number} | {train:.2f} | {estimate:.2f} | {validate:.2f} | {ratios[-1]:.2f} |")
    print(f"\nMedian ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
