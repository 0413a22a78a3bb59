"""The jitted steps: one update of the model, and one batch of evaluation. No TensorFlow is imported here."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.training.losses import Regularizer, cross_entropy

Arrays = Mapping[str, jax.Array]


@struct.dataclass
class TrainState:
    """All that changes in training, and all that a checkpoint holds of it.

    Attributes:
        step: int32, updates done.
        params: what the optimizer updates.
        batch_stats: the moving means and variances of batch normalization.
        opt_state: the optimizer's.
        ema: the moving average of the parameters, which is evaluated and kept instead of them; None without one.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = None


@struct.dataclass
class BatchResult:
    """How a batch went, an entry an example; on its way to the host.

    Attributes:
        loss: float32 `[batch]`, cross-entropy in nats, neither weighted nor smoothed.
        predicted: int32 `[batch]`, the class of the largest logit.
        label: int32 `[batch]`.
        mask: bool `[batch]`, False for what only fills up a batch.
    """

    loss: jax.Array
    predicted: jax.Array
    label: jax.Array
    mask: jax.Array


class Objective(NamedTuple):
    """What a step minimizes, see `losses`; and how fast its moving average of the parameters follows them.

    Attributes:
        regularizer: of the head.
        class_weights: float32 `[classes]`, or None.
        label_smoothing: from 0 to 1.
        ema_decay: the average is multiplied by it each step; 0 keeps none.
    """

    regularizer: Regularizer = Regularizer()
    class_weights: Any = None
    label_smoothing: float = 0.0
    ema_decay: float = 0.0


CROSS_ENTROPY = Objective()


def create_train_state(
    params: Any, batch_stats: Any, optimizer: optax.GradientTransformation, ema: bool = False
) -> TrainState:
    """The state before the first update."""
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, jax.jit(optimizer.init)(params), average)


def make_train_step(
    model: MobileNet,
    optimizer: optax.GradientTransformation,
    dropout_key: jax.Array,
    objective: Objective = CROSS_ENTROPY,
) -> Callable[[TrainState, Arrays, jax.Array], tuple[TrainState, BatchResult, jax.Array]]:
    """Builds the jitted update. The state given to it is donated: use the one it returns.

    Dropout is a function of `dropout_key` and the step alone.

    Returns:
        A function of the state, a batch (`image` `[batch, height, width, 3]`, `label` `[batch]`) and a number that the
        update is multiplied by; to the next state, the outcome before the update, and the value of the objective.
    """

    def train_step(state: TrainState, batch: Arrays, scale: jax.Array) -> tuple[TrainState, BatchResult, jax.Array]:
        def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            logits, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch["image"],
                train=True,
                rngs={"dropout": jax.random.fold_in(dropout_key, state.step)},
                mutable=["batch_stats", "activities"],
            )
            losses = cross_entropy(
                logits,
                batch["label"],
                class_weights=objective.class_weights,
                label_smoothing=objective.label_smoothing,
            )
            penalty = objective.regularizer.penalty(params, updated.get("activities", {}))
            return losses.mean() + penalty, (logits, updated["batch_stats"])

        (value, (logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, jax.tree.map(lambda u: scale * u, updates))
        ema = state.ema and optax.incremental_update(params, state.ema, 1 - objective.ema_decay)
        outcome = _outcome(logits, batch["label"], jnp.ones_like(batch["label"], bool))
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema), outcome, value

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(model: MobileNet) -> Callable[[TrainState, Arrays], BatchResult]:
    """Builds the jitted evaluation of a batch (`image`, `label` and `mask`), without dropout or updates."""

    def eval_step(state: TrainState, batch: Arrays) -> BatchResult:
        variables = {"params": state.ema or state.params, "batch_stats": state.batch_stats}
        return _outcome(model.apply(variables, batch["image"], train=False), batch["label"], batch["mask"])

    return jax.jit(eval_step)


def _outcome(logits: Any, label: jax.Array, mask: jax.Array) -> BatchResult:
    return BatchResult(cross_entropy(logits, label), logits.argmax(-1), label, mask)
