"""The jitted steps: one update of the model, and the evaluation of one batch. This module needs no TensorFlow."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from mobilenet_jax.model.folding import fold_batch_norm
from mobilenet_jax.model.inference import apply_in_parts
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.training.losses import Regularizer, cross_entropy
from mobilenet_jax.training.mixing import Mixing, mix_examples

DeviceBatch = Mapping[str, jax.Array]  # columns of one length, on the devices


@struct.dataclass
class TrainState:
    """All arrays that change during training. Checkpoints store these fields in this order.

    Attributes:
        step: int32 scalar, the number of updates so far.
        params: the parameters.
        batch_stats: the moving means and variances of batch normalization.
        opt_state: the state of the optimizer.
        ema: the exponential moving average of the parameters, which is evaluated and exported instead of them; None
            without averaging.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = None

    @property
    def evaluated_params(self) -> Any:
        """The parameters that are evaluated and exported: the moving average if there is one."""
        return self.params if self.ema is None else self.ema


@struct.dataclass
class BatchResult:
    """Per-example results of one batch.

    Attributes:
        loss: float32 `[batch]`, cross-entropy of the logits in nats, without class weights, label smoothing, focal
            factor and logit offset; with `label` alone, even where a second image is mixed in.
        predicted: int32 `[batch]`, the class with the largest logit.
        label: int32 `[batch]`.
        mask: bool `[batch]`, False for padding.
    """

    loss: jax.Array
    predicted: jax.Array
    label: jax.Array
    mask: jax.Array


class Objective(NamedTuple):
    """The function that a train step minimizes, see `losses`, and the averaging of the parameters.

    Attributes:
        regularizer: the penalties on the head.
        class_weights: float32 `[classes]`, or None.
        label_smoothing: from 0 to 1.
        focal_gamma: see `losses.cross_entropy`.
        logit_offset: float32 `[classes]`, or None.
        first_weighted_step: `class_weights` apply from this step on (deferred re-weighting, Cao et al. 2019,
            arXiv:1906.07413).
        mixing: the mixing of pairs of images.
        ema_decay: the highest factor of the moving average, see `compute_ema_decay`; only used if the state has an
            average.
    """

    regularizer: Regularizer = Regularizer()
    class_weights: Any = None
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    logit_offset: Any = None
    first_weighted_step: int = 0
    mixing: Mixing = Mixing()
    ema_decay: float = 0.0

    def compute_loss(self, logits: jax.Array, targets: jax.Array, step: jax.Array) -> jax.Array:
        """Computes the mean loss of a batch, without the penalties; see `losses.cross_entropy`."""
        weights = self.class_weights
        if weights is not None and self.first_weighted_step:
            weights = jnp.where(step < self.first_weighted_step, 1.0, weights)
        return cross_entropy(
            logits,
            targets,
            class_weights=weights,
            label_smoothing=self.label_smoothing,
            focal_gamma=self.focal_gamma,
            logit_offset=self.logit_offset,
        ).mean()


CROSS_ENTROPY = Objective()


def create_train_state(
    params: Any, batch_stats: Any, optimizer: optax.GradientTransformation, *, ema: bool = False
) -> TrainState:
    """Creates the state before the first update.

    Args:
        params: the initial parameters.
        batch_stats: the initial statistics of batch normalization.
        optimizer: its state is initialized for `params`.
        ema: whether to keep a moving average of the parameters.
    """
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, jax.jit(optimizer.init)(params), average)


def make_train_step(
    model: MobileNet,
    optimizer: optax.GradientTransformation,
    dropout_key: jax.Array,
    objective: Objective = CROSS_ENTROPY,
) -> Callable[[TrainState, DeviceBatch, jax.Array], tuple[TrainState, BatchResult, jax.Array]]:
    """Builds the jitted train step. The input state is donated, so callers use the returned one.

    Dropout and mixing depend only on `dropout_key` and the step, so there is no random state to save.

    Returns:
        A function `(state, batch, scale) -> (state, result, value)`. `batch` holds `image` `[batch, height, width, 3]`
        and `label` `[batch]`, and may hold `soft_label` `[batch, classes]`; the update is multiplied by `scale`;
        `result` and `value`, the objective, are computed before the update.
    """

    def compute_objective(
        params: Any, state: TrainState, batch: DeviceBatch
    ) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        targets = batch.get("soft_label", batch["label"])
        step_key = jax.random.fold_in(dropout_key, state.step)
        images, targets = mix_examples(objective.mixing, step_key, batch["image"], targets, model.num_classes)
        logits, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            rngs={"dropout": step_key},
            mutable=["batch_stats", "activities"],
        )
        penalty = objective.regularizer.compute_penalty(params, updated.get("activities", {}))
        return objective.compute_loss(logits, targets, state.step) + penalty, (logits, updated["batch_stats"])

    def train_step(
        state: TrainState, batch: DeviceBatch, scale: jax.Array
    ) -> tuple[TrainState, BatchResult, jax.Array]:
        differentiate = jax.value_and_grad(compute_objective, has_aux=True)
        (value, (logits, batch_stats)), grads = differentiate(state.params, state, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, jax.tree.map(lambda u: scale * u, updates))
        ema = None
        if state.ema is not None:
            step_size = 1 - compute_ema_decay(objective.ema_decay, state.step)
            # In this form, parameters that do not change keep their value to the bit.
            ema = jax.tree.map(lambda new, old: old + step_size * (new - old), params, state.ema)
        result = _make_result(logits, batch["label"], jnp.ones_like(batch["label"], bool))
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema), result, value

    return jax.jit(train_step, donate_argnums=0)


def compute_ema_decay(decay: float, step: jax.Array) -> jax.Array:
    """Computes the factor of the moving average in a step: `min(decay, (1 + step) / (10 + step))`.

    The average starts at the initial parameters. Without this warm-up, that of TensorFlow's
    `ExponentialMovingAverage(num_updates=step)`, 0.999 leaves them a weight of 0.37 after 1000 steps.

    Args:
        decay: the factor after the warm-up.
        step: int32 scalar, counted from 0.
    """
    return jnp.minimum(decay, (1 + step) / (10 + step))


def make_eval_step(model: MobileNet) -> Callable[[TrainState, DeviceBatch], BatchResult]:
    """Builds the jitted evaluation of one batch, without dropout or updates.

    Returns:
        A function `(state, batch) -> result`. `batch` holds `image` `[batch, height, width, 3]`, `label` `[batch]` and
        `mask` `[batch]`. The moving average of the parameters is evaluated if the state has one.
    """

    return functools.partial(_eval_step, model)


@functools.partial(jax.jit, static_argnums=0)  # compiled once per process for models that are equal
def _eval_step(model: MobileNet, state: TrainState, batch: DeviceBatch) -> BatchResult:
    folded, variables = fold_batch_norm(model, {"params": state.evaluated_params, "batch_stats": state.batch_stats})

    def compute_logits(images: jax.Array) -> Any:
        return folded.apply(variables, images, train=False)

    logits = apply_in_parts(compute_logits, batch["image"], folded)
    return _make_result(logits, batch["label"], batch["mask"])


def _make_result(logits: Any, label: jax.Array, mask: jax.Array) -> BatchResult:
    return BatchResult(cross_entropy(logits, label), logits.argmax(-1), label, mask)
