"""The main job: a configuration and a workdir to a trained model and its figures."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples
from input_pipeline.sources.registry import read_split
from input_pipeline.splits import as_table, crossing_lesions, table_hash
from mobilenet_jax import sharding as meshes
from mobilenet_jax.config import check_config, has_weights
from mobilenet_jax.errors import ConfigError, Interrupted, TrainingError, WeightsError, WorkdirError
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.training.checkpoints import KEPT, Checkpoints
from mobilenet_jax.training.loop import Run
from mobilenet_jax.training.preemption import StopRequest
from mobilenet_jax.training.workdir import Workdir
from mobilenet_jax.weights.imagenet import imagenet_file
from mobilenet_jax.weights.load import read_weights

ARTICLE_SCALING = (0.0, 1.0)  # 1/255

ERRORS = (ConfigError, DataError, WeightsError, WorkdirError, TrainingError, OSError)  # that a user can mend


def train_and_evaluate(config: ConfigDict, workdir: str | Path, *, profile: bool = False) -> dict[str, Any]:
    """Trains, evaluates after every epoch, and leaves figures and checkpoints in `workdir`.

    Called again with the same workdir it goes on after the last step that was saved, and what comes out is, on a
    CPU, equal to the bit to what an undisturbed run gives. Every process of a cluster calls it; the first one writes.

    Args:
        config: as `configs/mobilenet.py` gives it.
        workdir: a folder that does not exist, is empty, or holds an earlier part of this run.
        profile: whether to leave a trace of ten steps in `workdir/profile`.

    Returns:
        What `summary.json` holds: `best` and `last` (the records of those epochs), sizes of data and model, seconds.

    Raises:
        ConfigError, DataError, WeightsError, WorkdirError: something is wrong with what the run is given; found before
            the first step.
        TrainingError: the loss became infinite or NaN.
        Interrupted: the run was asked to stop, and has saved its state.
    """
    workdir = Path(workdir)
    check_config(config)
    examples = load_examples(config)
    _check_batch_size(config.train.batch_size, len(examples[0]))
    # The generator 'rbg' compiles in half the time and memory that JAX's default takes.
    init_key, dropout_key = jax.random.split(jax.random.key(config.seed, impl="rbg"))
    model, variables, scaling = init_model(config, init_key)
    run = Run(config, model, variables, scaling, dropout_key, examples)
    print(_parameter_lines(model, variables))
    writes = meshes.process()[0] == 0
    checkpoint_bytes = sum(x.nbytes for x in jax.tree.leaves(run.state))
    with Workdir(workdir, config.to_dict(), (KEPT + 1) * checkpoint_bytes, writes=writes) as files:
        if meshes.process()[1] > 1:
            multihost_utils.sync_global_devices("the workdir is there")
        with Checkpoints(workdir / "checkpoints") as checkpoints, StopRequest() as stop:
            if checkpoints.latest_step() is not None:
                run.resume(checkpoints, workdir)
            files.write_start(config.to_dict(), as_table(*examples), parameter_table(model, variables))
            while not run.is_over:
                files.check_space(checkpoint_bytes)
                finished = run.train_epoch(stop, workdir / "profile" if profile else None)
                run.save(checkpoints)
                if not finished:
                    raise Interrupted(
                        f"stopped at step {int(run.state.step)}, saved: the same command goes on from there"
                    )
                files.write_metrics(run.records)
        summary = run.summary()
        files.write_metrics(run.records)
        files.write_summary(summary)
    _report(workdir, summary)
    return summary


def _check_batch_size(batch_size: int, training_images: int) -> None:
    if batch_size > training_images:
        raise ConfigError(f"config.train.batch_size is {batch_size}, more than the training images: {training_images}")
    devices = jax.device_count()
    if batch_size % devices:
        below, above = batch_size // devices * devices, -(-batch_size // devices) * devices
        nearest = f"{below} or {above}" if below else above
        raise ConfigError(
            f"config.train.batch_size is {batch_size}, no multiple of {devices} devices: the nearest are {nearest}"
        )


def load_examples(config: ConfigDict) -> tuple[Examples, Examples]:
    """The examples for training and validation that a configuration names, each image checked.

    Raises:
        DataError: see `input_pipeline`.
        ConfigError: the data's classes are not as many as the model's.
    """
    data, how = config.data, config.data.split
    training, validation = read_split(data.source, data.dir, how, val_fraction=data.val_fraction, seed=config.seed)
    if len(training.class_names) != config.model.num_classes:
        raise ConfigError(
            f"config.model.num_classes is {config.model.num_classes}, the data have {len(training.class_names)}"
        )
    for name, part in (("training", training), ("validation", validation)):
        counts = np.bincount(part.labels, minlength=len(part.class_names))
        table = " ".join(f"{n} {c}" for n, c in zip(part.class_names, counts, strict=True))
        print(f"{name}: {len(part)} images of {len(set(part.lesions))} lesions ({table})")
    crossing = crossing_lesions(training, validation)
    print(f"split {how}, hash {table_hash(as_table(training, validation))[:12]}; lesions on both sides: {crossing}")
    if crossing:
        print("warning: lesions that were trained on are validated on, and flatter; data.split=lesion keeps them apart")
    return training, validation


def init_model(config: ConfigDict, key: jax.Array) -> tuple[MobileNet, dict[str, Any], tuple[float, float]]:
    """The model of a configuration, its first variables, and what pixel values 0 and 255 are mapped to for it.

    The variables are random; the backbone's are from `init.weights` if that is given.

    Raises:
        WeightsError: the weights cannot be had, or are not for this model.
    """
    model = MobileNet(**config.model, dtype=jnp.dtype(config.train.precision))
    size, scaling = config.data.image_size, ARTICLE_SCALING
    variables = jax.jit(lambda key: model.init(key, jnp.zeros((1, size, size, 3)), train=False))(key)
    if has_weights(config):
        path = imagenet_file(model.alpha, size) if config.init.weights == "imagenet" else config.init.weights
        weights = read_weights(path, model.alpha, head=False)
        backbone = weights.variables
        variables = {name: {**variables[name], **backbone[name]} for name in ("params", "batch_stats")}
        if config.init.input_scaling == "weights":
            scaling = weights.metadata.input_scaling
        print(f"backbone from {path}; pixels scaled to [{scaling[0]:g}, {scaling[1]:g}]")
    return model, variables, scaling


def parameter_table(model: MobileNet, variables: dict[str, Any]) -> str:
    """Every parameter's name, shape, size and whether it is trained, a line each."""
    frozen, rows = model.frozen_layers(), []
    for layer, tensors in variables["params"].items():
        for name, value in tensors.items():
            shape = "x".join(map(str, value.shape))
            rows.append(
                f"{f'{layer}.{name}':<28}{shape:>16}{value.size:>12,}  {'frozen' if layer in frozen else ''}".rstrip()
            )
    return "\n".join(rows) + "\n"


def _parameter_lines(model: MobileNet, variables: dict[str, Any]) -> str:
    """How many parameters there are, and where."""
    sizes = {layer: sum(x.size for x in jax.tree.leaves(tree)) for layer, tree in variables["params"].items()}
    head = sum(n for layer, n in sizes.items() if layer.startswith(("dense_", "predictions", "conv_preds")))
    trained = sum(sizes.values()) - sum(sizes[layer] for layer in model.frozen_layers())
    return (
        f"model: {trained:,} trainable parameters of {sum(sizes.values()):,} ({sum(sizes.values()) - head:,} backbone, "
        f"{head:,} head), on {jax.device_count()} {jax.default_backend()} device(s)"
    )


def _report(workdir: Path, summary: dict[str, Any]) -> None:
    best, last = summary["best"], summary["last"]
    if summary["stopped_early"]:
        print(f"stopped early after epoch {last['epoch']}")
    print(
        f"best: epoch {best['epoch']}, validation balanced accuracy {best['val_balanced_accuracy']:.4f}, "
        f"accuracy {best['val_accuracy']:.4f}, loss {best['val_loss']:.4f}\n"
        f"figures: {workdir / 'metrics.jsonl'}, {workdir / 'summary.json'}, {workdir / 'curves.png'}\n"
        f"checkpoints: {workdir / 'checkpoints'} (latest {last['step']}, best {best['step']})",
        file=sys.stdout,
        flush=True,
    )
