"""A run between its epochs: the state, the records of the epochs done, and how an epoch is done."""

import ctypes
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from tqdm import tqdm

from input_pipeline.batches import make_eval_batches, make_train_batches
from input_pipeline.cache import open_cache
from input_pipeline.examples import Examples
from input_pipeline.splits import format_split
from mobilenet_jax import sharding
from mobilenet_jax.config import check_config
from mobilenet_jax.errors import Interrupted, TrainingError, WorkdirError
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.training.checkpoints import KEPT, Checkpoints
from mobilenet_jax.training.device_augment import make_device_augment
from mobilenet_jax.training.early_stopping import EarlyStopping
from mobilenet_jax.training.epoch_metrics import compute_epoch_metrics
from mobilenet_jax.training.losses import Regularizer, balanced_class_weights
from mobilenet_jax.training.optimizer import make_optimizer, make_schedule, plateau_scale
from mobilenet_jax.training.preemption import StopRequest
from mobilenet_jax.training.setup import (
    _check_batch_size,
    _parameter_lines,
    init_model,
    load_examples,
    make_augmentation,
    parameter_table,
)
from mobilenet_jax.training.step import BatchResult, Objective, create_train_state, make_eval_step, make_train_step
from mobilenet_jax.training.workdir import Workdir

BEST_BY = "val_balanced_accuracy"  # unless early stopping looks at something else
_PROFILED = (5, 15)  # steps after the start of the process


class Run:
    """Trains epoch by epoch.

    Attributes:
        state: the model and the optimizer after the last step.
        records: of the epochs done, as `metrics.jsonl` holds them.
    """

    def __init__(
        self,
        config: ConfigDict,
        model: MobileNet,
        variables: dict[str, Any],
        scaling: tuple[float, float],
        dropout_key: jax.Array,
        examples: tuple[Examples, Examples],
    ):
        self._config, self._scaling = config, scaling
        self._training, self._validation = examples
        self._mesh = sharding.make_data_mesh()
        self._steps = len(self._training) // config.train.batch_size  # of an epoch
        self._schedule = make_schedule(config, self._steps)
        optimizer = make_optimizer(config, self._schedule, model)
        balanced = config.loss.class_weights == "balanced"
        objective = Objective(
            Regularizer(**config.regularizer),
            balanced_class_weights(self._training.labels, model.num_classes) if balanced else None,
            config.loss.label_smoothing,
            config.train.ema_decay,
        )
        self.state = sharding.replicate(
            self._mesh,
            create_train_state(
                variables["params"], variables["batch_stats"], optimizer, ema=config.train.ema_decay > 0
            ),
        )
        self._train_step: Any = make_train_step(model, optimizer, dropout_key, objective)
        self._eval_step = make_eval_step(model)
        self._augmentation = make_augmentation(config.augment)
        on_device = config.augment.where == "device"
        self._augment = make_device_augment(self._augmentation, scaling) if on_device else None
        paths = np.concatenate([part.paths for part in examples])
        self._cache = open_cache(config.data.cache, paths, config.data.image_size)
        self.records: list[dict[str, Any]] = []
        self._outcomes: list[BatchResult] = []  # of the steps of an epoch that is not finished
        self._objectives: list[float] = []
        self._batches: Iterator[dict[str, np.ndarray]] | None = None
        self._started, self._steps_here, self._waited = time.perf_counter(), 0, 0.0
        self._traced_from = 0  # a trace is being taken since that step
        _return_memory()

    @property
    def epochs_done(self) -> int:
        """How many epochs are finished."""
        return len(self.records)

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or early stopping says so."""
        return self.epochs_done >= self._config.train.epochs or self.stopped_early() is not None

    def stopped_early(self) -> int | None:
        """The epoch after which early stopping ends the run, None if it does not."""
        settings = dict(self._config.early_stopping)
        if not settings.pop("enabled"):
            return None
        stopping = EarlyStopping(**settings)
        return stopping.verdict([r[stopping.monitor] for r in self.records])[0]

    def score(self, record: dict[str, Any]) -> float:
        """By what the best epoch is chosen; more is better."""
        settings = self._config.early_stopping
        monitor = settings.monitor if settings.enabled else BEST_BY
        falls = settings.mode == "min" if settings.enabled and settings.mode != "auto" else monitor.endswith("loss")
        return -record[monitor] if falls else record[monitor]

    @property
    def history(self) -> dict[str, Any]:
        """What a checkpoint holds beside the state."""
        partial = {
            field: np.concatenate([getattr(outcome, field) for outcome in self._outcomes]).tolist()
            for field in ("loss", "predicted", "label")
            if self._outcomes
        }
        return {
            "epochs": self.records,
            "partial": {**partial, "objective": self._objectives},
            "data": [self._training.compute_fingerprint(), self._validation.compute_fingerprint()],
            "classes": list(self._training.class_names),
            "input_scaling": list(self._scaling),
        }

    def save(self, checkpoints: Checkpoints) -> None:
        """Starts to save the state as it is."""
        checkpoints.save(self.state, self.history, None if self._outcomes else self.score(self.records[-1]))

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
        self.records, partial = history["epochs"], history["partial"]
        self._scaling = tuple(history["input_scaling"])  # what the state was trained with
        self._objectives = partial["objective"]
        if self._objectives:
            kinds = {"loss": np.float32, "predicted": np.int32, "label": np.int32}
            fields: dict[str, Any] = {field: np.array(partial[field], kind) for field, kind in kinds.items()}
            self._outcomes = [BatchResult(**fields, mask=fields["label"] >= 0)]
        if self.is_over:
            print("the run is finished: raise config.train.epochs to go on, or choose another --workdir")
        else:
            print(f"going on after epoch {self.epochs_done}, step {int(self.state.step)}")

    def train_epoch(self, stop: StopRequest, profile: Path | None) -> bool:
        """Trains to the end of an epoch, evaluates, and adds the record.

        Args:
            stop: asks to stop after a step.
            profile: a folder for a trace of ten steps, None for none.

        Returns:
            False if it was stopped before the end; the state is then in the middle of the epoch.
        """
        start, done, waited = time.perf_counter(), len(self._objectives), self._waited
        if not self._train(stop, profile):
            return False
        seconds = time.perf_counter() - start
        trained, objective = compute_epoch_metrics(self._outcomes), float(np.mean(self._objectives))
        self._outcomes, self._objectives = [], []
        evaluated = compute_epoch_metrics(self._evaluate())
        if not math.isfinite(evaluated["loss"]):
            raise TrainingError(self._diverged("validation loss", evaluated["loss"]))
        record = {
            "epoch": self.epochs_done + 1,
            "step": int(self.state.step),
            **{f"train_{k}": v for k, v in trained.items()},
            "train_objective": objective,
            **{f"val_{k}": v for k, v in evaluated.items()},
            "learning_rate": self._learning_rate(int(self.state.step) - 1),
            "seconds": round(time.perf_counter() - start, 3),
            "images_per_second": round((self._steps - done) * self._config.train.batch_size / seconds, 1),
            "input_wait": round((self._waited - waited) / seconds, 3),
            "memory_mb": _memory(),
        }
        self.records.append(record)
        print(_epoch_line(record, self._config.train.epochs), flush=True)
        return True

    def _train(self, stop: StopRequest, profile: Path | None) -> bool:
        """The steps that are left of an epoch; False if it was stopped."""
        config, scale = self._config, jnp.float32(self._plateau())
        bar = tqdm(
            total=self._steps * config.train.batch_size,
            initial=len(self._objectives) * config.train.batch_size,
            desc=f"epoch {self.epochs_done + 1}/{config.train.epochs}",
            unit=" images",
            bar_format="{desc} {percentage:3.0f}% |{bar}| {rate_fmt}, {remaining} left{postfix}",  # fits 80 columns
            disable=None if sharding.get_process()[0] == 0 else True,  # on anything but a terminal
            leave=False,
        )
        pending: list[tuple[BatchResult, jax.Array]] = []
        with bar:
            while len(self._objectives) + len(pending) < self._steps:
                if profile:
                    self._profile(profile)
                batch = self._next_batch()
                if self._steps_here == 1:
                    self._compile(batch, scale)
                self.state, outcome, value = self._train_step(self.state, batch, scale)
                pending.append((outcome, value))
                stopped = stop.asked_at(int(self._steps_here))
                # Looked at a step late: the device always has a step to do, and never more than two take memory.
                while len(pending) > (0 if stopped or self._at_end(pending) else 1):
                    self._look_at(*pending.pop(0), bar)
                if stopped and not self._at_end(pending):
                    return False
        if profile:
            self._profile(profile, is_end=True)
        return True

    def _at_end(self, pending: list[Any]) -> bool:
        return len(self._objectives) + len(pending) >= self._steps

    def _next_batch(self) -> dict[str, jax.Array]:
        config, start = self._config, time.perf_counter()
        if self._batches is None:
            self._batches = make_train_batches(
                self._training,
                self._augmentation,
                image_size=config.data.image_size,
                scaling=self._scaling,
                batch_size=config.train.batch_size,
                seed=config.seed,
                first_step=int(self.state.step),
                last_step=config.train.epochs * self._steps,
                where=config.augment.where,
                balanced=config.data.sampling == "balanced",
                cache=self._cache,
                process=sharding.get_process(),
            )
        batch = sharding.shard_batch(self._mesh, next(self._batches))
        self._waited += time.perf_counter() - start
        self._steps_here += 1
        return self._augment(batch) if self._augment else batch

    def _look_at(self, outcome: BatchResult, value: jax.Array, bar: tqdm) -> None:
        """Waits for a step, and takes its figures from the device."""
        objective = float(value)
        if not math.isfinite(objective):
            raise TrainingError(self._diverged("loss", objective))
        self._outcomes.append(sharding.gather_to_host(outcome))
        self._objectives.append(objective)
        if not bar.disable:
            shown = compute_epoch_metrics(self._outcomes[-1:])
            bar.set_postfix_str(f"loss {shown['loss']:.3f}, accuracy {shown['accuracy']:.2f}", refresh=False)
        bar.update(self._config.train.batch_size)

    def _diverged(self, what: str, value: float) -> str:
        step = self.epochs_done * self._steps + len(self._objectives) + 1
        kept = f"the checkpoint of step {self.records[-1]['step']} is kept" if self.records else "none is saved yet"
        return (
            f"the {what} is {value} at step {step} (epoch {self.epochs_done + 1}), where the learning rate is "
            f"{self._learning_rate(step - 1):g}; {kept}: start again with another --workdir and a lower "
            f"config.optimizer.learning_rate, or config.optimizer.clip_norm=1"
        )

    def _compile(self, batch: dict[str, jax.Array], scale: jax.Array) -> None:
        """Compiles the step, and says what was waited for until now."""
        start = time.perf_counter()
        self._train_step = self._train_step.lower(self.state, batch, scale).compile()
        _return_memory()
        now = time.perf_counter()
        print(f"first step after {now - self._started:.1f} s, {now - start:.1f} s of it to compile the step")

    def _plateau(self) -> float:
        return plateau_scale(self._config, [r["val_loss"] for r in self.records])

    def _learning_rate(self, step: int) -> float:
        return float(self._schedule(step)) * self._plateau()

    def _profile(self, folder: Path, *, is_end: bool = False) -> None:
        """Traces ten steps, or those up to the end of their epoch."""
        if self._steps_here == _PROFILED[0] and not is_end:
            jax.profiler.start_trace(folder)
            self._traced_from = self._steps_here
        elif self._traced_from and (is_end or self._steps_here == _PROFILED[1]):
            jax.block_until_ready(self.state)
            jax.profiler.stop_trace()
            print(f"a trace of {self._steps_here - self._traced_from} steps is in {folder}, for `tensorboard --logdir`")
            self._traced_from = 0

    def _evaluate(self) -> list[BatchResult]:
        batches = make_eval_batches(
            self._validation,
            image_size=self._config.data.image_size,
            scaling=self._scaling,
            batch_size=self._config.train.batch_size,
            augmentation=self._augmentation if self._config.augment.on_validation else None,
            seed=self._config.seed,
            epoch=self.epochs_done,
            cache=self._cache,
            process=sharding.get_process(),
        )
        outcomes: list[BatchResult] = []
        for batch in batches:
            outcomes.append(self._eval_step(self.state, sharding.shard_batch(self._mesh, batch)))
            jax.block_until_ready(outcomes[-2:-1])  # a step late, as in training
        return [sharding.gather_to_host(outcome) for outcome in outcomes]

    def summary(self) -> dict[str, Any]:
        """The run in figures. Of epochs equally good, the later is the best: its checkpoint is the one kept."""
        return {
            "best": max(self.records, key=lambda r: (self.score(r), r["epoch"])),
            "last": self.records[-1],
            "stopped_early": self.stopped_early() is not None,
            "training_images": len(self._training),
            "validation_images": len(self._validation),
            "parameters": sum(x.size for x in jax.tree.leaves(self.state.params)),
            "seconds": round(sum(r["seconds"] for r in self.records), 1),
        }


def _memory() -> float:
    """Megabytes: resident, or, where JAX can tell, the most taken of the first device's."""
    stats = jax.local_devices()[0].memory_stats()
    return round((stats["peak_bytes_in_use"] if stats else psutil.Process().memory_info().rss) / 1e6, 1)


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
    examples = load_examples(config.data, config.model.num_classes, config.seed)
    _check_batch_size(config.train.batch_size, len(examples[0]))
    # The generator 'rbg' compiles in half the time and memory that JAX's default takes.
    init_key, dropout_key = jax.random.split(jax.random.key(config.seed, impl="rbg"))
    model, variables, scaling = init_model(config, init_key)
    run = Run(config, model, variables, scaling, dropout_key, examples)
    print(_parameter_lines(model, variables))
    writes = sharding.get_process()[0] == 0
    checkpoint_bytes = sum(x.nbytes for x in jax.tree.leaves(run.state))
    with Workdir(workdir, config.to_dict(), (KEPT + 1) * checkpoint_bytes, writes=writes) as files:
        if sharding.get_process()[1] > 1:
            multihost_utils.sync_global_devices("the workdir is there")
        with Checkpoints(workdir / "checkpoints") as checkpoints, StopRequest() as stop:
            if checkpoints.latest_step() is not None:
                run.resume(checkpoints, workdir)
            files.write_start(config.to_dict(), format_split(*examples), parameter_table(model, variables))
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
