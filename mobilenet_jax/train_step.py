"""The jitted steps: one update of the model, and one batch of evaluation. No TensorFlow is imported here."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from mobilenet_jax.model import MobileNet

Arrays = Mapping[str, jax.Array]


@struct.dataclass
class TrainState:
    """All that changes in training, and all that a checkpoint holds of it.

    Attributes:
        step: int32, updates done.
        params: what the optimizer updates.
        batch_stats: the moving means and variances of batch normalisation.
        opt_state: the optimizer's.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


@struct.dataclass
class Outcome:
    """How a batch went, an entry an example; on its way to the host.

    Attributes:
        loss: float32 `[batch]`, cross-entropy in nats.
        predicted: int32 `[batch]`, the class of the largest logit.
        label: int32 `[batch]`.
        mask: bool `[batch]`, False for what only fills up a batch.
    """

    loss: jax.Array
    predicted: jax.Array
    label: jax.Array
    mask: jax.Array


def make_optimizer(name: str, learning_rate: float, momentum: float) -> optax.GradientTransformation:
    """`"sgd"` with momentum as in Keras, or `"adadelta"` with Keras's decay rate 0.95 and epsilon 1e-7."""
    if name == "sgd":
        return optax.sgd(learning_rate, momentum)
    if name == "adadelta":
        return optax.adadelta(learning_rate, rho=0.95, eps=1e-7)
    raise ValueError(f"optimizer is 'sgd' or 'adadelta', not {name!r}")


def leave_frozen(optimizer: optax.GradientTransformation, model: MobileNet) -> optax.GradientTransformation:
    """The same optimizer for the layers that the model trains; it holds no state for the others."""
    frozen = model.frozen_layers()
    if not frozen:
        return optimizer

    def labels(params: Any) -> dict[str, str]:
        return {layer: "frozen" if layer in frozen else "trained" for layer in params}

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def new_state(params: Any, batch_stats: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update."""
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))


def make_train_step(
    model: MobileNet, optimizer: optax.GradientTransformation, dropout_key: jax.Array
) -> Callable[[TrainState, Arrays], tuple[TrainState, Outcome]]:
    """Builds the jitted update. The state given to it is donated: use the one it returns.

    The loss is the mean cross-entropy of the batch; dropout is a function of `dropout_key` and the step alone.

    Returns:
        A function of the state and a batch (`image` `[batch, height, width, 3]`, `label` `[batch]`), to the next
        state and the outcome before the update.
    """

    def train_step(state: TrainState, batch: Arrays) -> tuple[TrainState, Outcome]:
        def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
            logits, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch["image"],
                train=True,
                rngs={"dropout": jax.random.fold_in(dropout_key, state.step)},
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            return losses.mean(), (losses, logits, updated["batch_stats"])

        (_, (losses, logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        outcome = Outcome(losses, logits.argmax(-1), batch["label"], jnp.ones_like(batch["label"], bool))
        return TrainState(state.step + 1, params, batch_stats, opt_state), outcome

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(model: MobileNet) -> Callable[[TrainState, Arrays], Outcome]:
    """Builds the jitted evaluation of a batch (`image`, `label` and `mask`), without dropout or updates."""

    def eval_step(state: TrainState, batch: Arrays) -> Outcome:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        logits: Any = model.apply(variables, batch["image"], train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return Outcome(losses, logits.argmax(-1), batch["label"], batch["mask"])

    return jax.jit(eval_step)
