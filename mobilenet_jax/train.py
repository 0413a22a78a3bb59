"""The main job: a configuration and a workdir to a trained model and its figures."""

import ctypes
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from input_pipeline import (
    Augmentation,
    Examples,
    as_table,
    check_images,
    crossing_lesions,
    eval_batches,
    open_cache,
    read_examples,
    split_examples,
    table_hash,
    train_batches,
)
from mobilenet_jax import mesh as meshes
from mobilenet_jax.checkpoints import BEST_BY, Checkpoints
from mobilenet_jax.config import ConfigError, check_config, has_weights
from mobilenet_jax.device_augment import make_augment
from mobilenet_jax.metrics import epoch_metrics
from mobilenet_jax.model import MobileNet
from mobilenet_jax.pretrained import imagenet_file, read_weights
from mobilenet_jax.train_step import (
    Arrays,
    Outcome,
    leave_frozen,
    make_eval_step,
    make_optimizer,
    make_train_step,
    new_state,
)
from mobilenet_jax.workdir import (
    WorkdirError,
    check_space,
    open_workdir,
    write_config,
    write_metrics,
    write_split,
    write_summary,
)

ARTICLE_SCALING = (0.0, 1.0)  # 1/255


class TrainingError(RuntimeError):
    """Training cannot go on. The message says where it stopped and what to try."""


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains, evaluates after every epoch, and leaves figures and checkpoints in `workdir`.

    Called again with the same workdir it goes on after the last epoch that was saved, and what comes out is, on a
    CPU, equal to the bit to what an undisturbed run gives.

    Args:
        config: as `configs/mobilenet.py` gives it.
        workdir: a folder that does not exist, is empty, or holds an earlier part of this run.

    Returns:
        What `summary.json` holds: `best` and `last` (the records of those epochs), sizes of data and model, seconds.

    Raises:
        ConfigError, DataError, WeightsError, WorkdirError: something is wrong with what the run is given; found before
            the first step.
        TrainingError: the loss became infinite or NaN.
    """
    workdir = Path(workdir)
    check_config(config)
    training, validation = load_examples(config)
    if config.train.batch_size > len(training):
        raise ConfigError(
            f"config.train.batch_size is {config.train.batch_size}, more than the training images: {len(training)}"
        )
    mesh = meshes.data_mesh()
    if config.train.batch_size % mesh.size:
        raise ConfigError(f"config.train.batch_size is {config.train.batch_size}, no multiple of {mesh.size} devices")

    run = _Run(config, mesh, training, validation)
    checkpoint_bytes = sum(x.nbytes for x in jax.tree.leaves(run.state))
    open_workdir(workdir, config.to_dict(), checkpoint_bytes)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        if checkpoints.latest_step() is not None:
            run.resume(checkpoints, workdir)
        write_split(workdir, as_table(training, validation))
        write_config(workdir, config.to_dict())  # only now: a refused resume leaves the earlier one
        while run.epochs_done < config.train.epochs:
            check_space(workdir, checkpoint_bytes)
            run.train_epoch()
            checkpoints.save(run.state, run.history)
            write_metrics(workdir, run.records)
    summary = run.summary()
    write_metrics(workdir, run.records)
    write_summary(workdir, summary)
    _report(workdir, summary)
    return summary


def load_examples(config: ConfigDict) -> tuple[Examples, Examples]:
    """The examples for training and validation that a configuration names, each image checked.

    Raises:
        DataError: see `input_pipeline`.
        ConfigError: the data's classes are not as many as the model's.
    """
    examples = read_examples(config.data.source, config.data.dir)
    if len(examples.class_names) != config.model.num_classes:
        raise ConfigError(
            f"config.model.num_classes is {config.model.num_classes}, the data have {len(examples.class_names)}"
        )
    how = config.data.split
    training, validation = split_examples(examples, how, val_fraction=config.data.val_fraction, seed=config.seed)
    check_images(examples)
    for name, part in (("training", training), ("validation", validation)):
        counts = np.bincount(part.labels, minlength=len(part.class_names))
        table = " ".join(f"{n} {c}" for n, c in zip(part.class_names, counts, strict=True))
        print(f"{name}: {len(part)} images of {len(set(part.lesions))} lesions ({table})")
    crossing = crossing_lesions(training, validation)
    print(f"split {how}, hash {table_hash(as_table(training, validation))[:12]}; lesions on both sides: {crossing}")
    if crossing:
        print("warning: lesions that were trained on are validated on, and flatter; data.split=lesion keeps them apart")
    return training, validation


def make_augmentation(config: ConfigDict) -> Augmentation:
    """The ranges of a configuration's augmentation."""
    return Augmentation(**{k: v for k, v in config.augment.items() if k not in ("on_validation", "where")})


def init_model(config: ConfigDict, key: jax.Array) -> tuple[MobileNet, dict[str, Any], tuple[float, float]]:
    """The model of a configuration, its first variables, and what pixel values 0 and 255 are mapped to for it.

    The variables are random; the backbone's are from `init.weights` if that is given.

    Raises:
        WeightsError: the weights cannot be had, or are not for this model.
    """
    model = MobileNet(**config.model)
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


class _Run:
    """A run between its epochs: the state, and the records of the epochs done."""

    def __init__(self, config: ConfigDict, mesh: Any, training: Examples, validation: Examples):
        # The generator 'rbg' compiles in half the time and memory that JAX's default takes.
        init_key, dropout_key = jax.random.split(jax.random.key(config.seed, impl="rbg"))
        model, variables, self._scaling = init_model(config, init_key)
        optimizer = make_optimizer(config.optimizer.name, config.optimizer.learning_rate, config.optimizer.momentum)
        optimizer = leave_frozen(optimizer, model)
        self.state = meshes.replicate(mesh, new_state(variables["params"], variables["batch_stats"], optimizer))
        self.records: list[dict[str, Any]] = []
        self._train_step = make_train_step(model, optimizer, dropout_key)
        self._eval_step = make_eval_step(model)
        self._config, self._mesh = config, mesh
        self._augmentation = make_augmentation(config)
        self._training, self._validation = training, validation
        paths = np.concatenate([training.paths, validation.paths])
        self._cache = open_cache(config.data.cache, paths, config.data.image_size)
        self._augment_on_device: Callable[[Arrays], Arrays] | None = None
        self._batches: Iterator[dict[str, np.ndarray]] | None = None
        _return_memory()
        trained = {name: layer for name, layer in variables["params"].items() if name not in model.frozen_layers()}
        print(f"model: {sum(x.size for x in jax.tree.leaves(trained)):,} trainable parameters, "
              f"on {mesh.size} {jax.default_backend()} device(s)")  # fmt: skip

    @property
    def epochs_done(self) -> int:
        return len(self.records)

    @property
    def history(self) -> dict[str, Any]:
        """What a checkpoint holds beside the state."""
        return {
            "epochs": self.records,
            "data": [self._training.fingerprint(), self._validation.fingerprint()],
            "classes": list(self._training.class_names),
            "input_scaling": list(self._scaling),
        }

    def resume(self, checkpoints: Checkpoints, workdir: Path) -> None:
        """Goes back to the latest checkpoint."""
        self.state, history = checkpoints.restore(self.state)
        if history["data"] != self.history["data"]:
            raise WorkdirError(f"the images or their labels are not those {workdir} was trained on: choose another one")
        if len(history["epochs"]) > self._config.train.epochs:
            raise WorkdirError(
                f"{workdir} holds {len(history['epochs'])} epochs, more than config.train.epochs="
                f"{self._config.train.epochs}: choose another --workdir"
            )
        self.records = history["epochs"]
        self._scaling = tuple(history["input_scaling"])  # what the state was trained with
        if self.epochs_done == self._config.train.epochs:
            print("the run is finished: raise config.train.epochs to go on, or choose another --workdir")
        else:
            print(f"going on after epoch {self.epochs_done}, step {int(self.state.step)}")

    def train_epoch(self) -> None:
        """Trains on one epoch, evaluates, and adds the record."""
        start = time.perf_counter()
        trained = epoch_metrics(self._train_one_epoch())
        train_seconds = time.perf_counter() - start
        evaluated = epoch_metrics(self._evaluate())
        if not math.isfinite(trained["loss"] + evaluated["loss"]):
            raise TrainingError(
                f"the loss of epoch {self.epochs_done + 1} is {trained['loss']} in training and {evaluated['loss']} in "
                "validation; checkpoints of earlier epochs are kept: start again with another --workdir and a "
                f"config.optimizer.learning_rate below {self._config.optimizer.learning_rate}"
            )
        steps = len(self._training) // self._config.train.batch_size
        record = {
            "epoch": self.epochs_done + 1,
            "step": int(self.state.step),
            **{f"train_{k}": v for k, v in trained.items()},
            **{f"val_{k}": v for k, v in evaluated.items()},
            "seconds": round(time.perf_counter() - start, 3),
            "images_per_second": round(steps * self._config.train.batch_size / train_seconds, 1),
        }
        self.records.append(record)
        tqdm.write(_epoch_line(record, self._config.train.epochs))

    def _train_one_epoch(self) -> list[Outcome]:
        config = self._config
        steps = len(self._training) // config.train.batch_size
        if self._batches is None:
            self._batches = train_batches(
                self._training,
                self._augmentation,
                image_size=config.data.image_size,
                scaling=self._scaling,
                batch_size=config.train.batch_size,
                seed=config.seed,
                first_step=int(self.state.step),
                last_step=config.train.epochs * steps,
                where=config.augment.where,
                cache=self._cache,
            )
            if config.augment.where == "device":
                self._augment_on_device = make_augment(self._augmentation, self._scaling)
        outcomes: list[Outcome] = []
        bar = tqdm(
            total=steps * config.train.batch_size,
            desc=f"epoch {self.epochs_done + 1}/{config.train.epochs}",
            unit=" images",
            bar_format="{desc} {percentage:3.0f}% |{bar}| {rate_fmt}, {remaining} left{postfix}",  # fits 80 columns
            disable=None,  # on anything but a terminal
            leave=False,
        )
        for _, batch in zip(range(steps), self._batches, strict=False):
            sharded: Arrays = meshes.shard(self._mesh, batch)
            if self._augment_on_device:
                sharded = self._augment_on_device(sharded)
            self.state, outcome = self._train_step(self.state, sharded)
            outcomes.append(outcome)
            if len(outcomes) == 1:
                _return_memory()
            # Looked at a step late: the device always has a step to do, and never more than two take memory.
            before = jax.block_until_ready(outcomes[-2:-1])
            if before and not bar.disable:
                shown = epoch_metrics(before)
                bar.set_postfix_str(f"loss {shown['loss']:.3f}, accuracy {shown['accuracy']:.2f}", refresh=False)
            bar.update(config.train.batch_size)
        bar.close()
        return outcomes

    def _evaluate(self) -> list[Outcome]:
        batches = eval_batches(
            self._validation,
            image_size=self._config.data.image_size,
            scaling=self._scaling,
            batch_size=self._config.train.batch_size,
            augmentation=self._augmentation if self._config.augment.on_validation else None,
            seed=self._config.seed,
            epoch=self.epochs_done,
            cache=self._cache,
        )
        outcomes: list[Outcome] = []
        for batch in batches:
            outcomes.append(self._eval_step(self.state, meshes.shard(self._mesh, batch)))
            jax.block_until_ready(outcomes[-2:-1])  # a step late, as in training
        return outcomes

    def summary(self) -> dict[str, Any]:
        """The run in figures. Of epochs equally good, the later is the best: its checkpoint is the one kept."""
        return {
            "best": max(self.records, key=lambda r: (r[BEST_BY], r["epoch"])),
            "last": self.records[-1],
            "training_images": len(self._training),
            "validation_images": len(self._validation),
            "parameters": sum(x.size for x in jax.tree.leaves(self.state.params)),
            "seconds": round(sum(r["seconds"] for r in self.records), 1),
        }


def _return_memory() -> None:
    """Gives the system back what a compilation took: some 300 MB that malloc would keep for the rest of the run."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc
        libc.malloc_trim(0)


def _epoch_line(record: dict[str, Any], epochs: int) -> str:
    sides = "   ".join(
        f"{name} loss {record[f'{side}_loss']:.4f} accuracy {record[f'{side}_accuracy']:.4f} "
        f"balanced {record[f'{side}_balanced_accuracy']:.4f}"
        for side, name in (("train", "training"), ("val", "validation"))
    )
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}   {sides}   "
        f"{record['seconds']:.1f} s, {record['images_per_second']:.0f} images/s"
    )


def _report(workdir: Path, summary: dict[str, Any]) -> None:
    best = summary["best"]
    print(
        f"best: epoch {best['epoch']}, validation balanced accuracy {best['val_balanced_accuracy']:.4f}, "
        f"accuracy {best['val_accuracy']:.4f}, loss {best['val_loss']:.4f}\n"
        f"figures: {workdir / 'metrics.jsonl'}, {workdir / 'summary.json'}, {workdir / 'curves.png'}\n"
        f"checkpoints: {workdir / 'checkpoints'} (latest {summary['last']['step']}, best {best['step']})",
        file=sys.stdout,
        flush=True,
    )
