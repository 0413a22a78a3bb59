"""Epochs of three steps and an evaluation, in float64, on however many devices and processes there are.

python -m tests.helpers.parallel_run DATA WEIGHTS EPOCHS OUT.npz [COORDINATOR PROCESSES NUMBER]
"""

import sys

import jax
import numpy as np

from configs.mobilenet import get_config
from mobilenet_jax import sharding
from mobilenet_jax.training.loop import Run
from mobilenet_jax.training.preemption import StopRequest
from mobilenet_jax.training.setup import init_model, load_examples
from tests.helpers.runs import data_settings


def main(data: str, weights: str, epochs: str, out: str, coordinator: str | None = None, *numbers: str) -> None:
    """Trains, and saves parameters, statistics and records."""
    sharding.connect_processes(coordinator, *(map(int, numbers) if numbers else (None, None)))
    jax.config.update("jax_enable_x64", True)
    config = get_config("isic2018")
    config.update_from_flattened_dict(
        {
            "data.dir": data, "data.image_size": 64, "init.weights": weights, "model.alpha": 0.25,
            "model.head": "small", "train.batch_size": 8, "train.epochs": int(epochs), "train.precision": "float64",
        }
    )  # fmt: skip
    init_key, dropout_key = jax.random.split(jax.random.key(0, impl="rbg"))
    model, variables, scaling = init_model(config, init_key)
    variables = jax.tree.map(lambda x: x.astype("float64"), variables)
    run = Run(config, model, variables, scaling, dropout_key, load_examples(*data_settings(config)))
    with StopRequest() as stop:
        while not run.is_over:
            run.train_epoch(stop, None)
    tensors = jax.tree.leaves((run.state.params, run.state.batch_stats))
    figures = [[r[f"val_{name}"] for name in ("accuracy", "balanced_accuracy", "loss")] for r in run.records]
    if sharding.get_process()[0] == 0:
        np.savez(out, *tensors, devices=jax.device_count(), step=run.state.step, figures=figures)


if __name__ == "__main__":
    main(*sys.argv[1:])
