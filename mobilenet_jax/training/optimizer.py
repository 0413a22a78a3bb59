"""From a configuration to an Optax optimizer and its learning rates."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from mobilenet_jax.model.mobilenet import MobileNet


def make_schedule(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate of each step, before what a plateau makes of it.

    `config.optimizer.warmup_epochs` rise from 0 in a line; then the rate is constant, or falls as a cosine to 0 at the
    end of `config.train.epochs`.
    """
    rate = config.optimizer.learning_rate
    warmup = config.optimizer.warmup_epochs * steps_per_epoch
    if config.optimizer.schedule == "cosine":
        after = optax.cosine_decay_schedule(rate, max(1, config.train.epochs * steps_per_epoch - warmup))
    else:
        after = optax.constant_schedule(rate)
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after], [warmup]) if warmup else after


def make_optimizer(config: ConfigDict, schedule: optax.Schedule, model: MobileNet) -> optax.GradientTransformation:
    """The optimizer of a configuration.

    `"sgd"` with momentum is Keras's, and `"adadelta"` too with its epsilon of 1e-7, as long as the learning rate is
    constant. Gradients are clipped by their global norm first; the decay of weights is added to the gradients of
    kernels, not of biases nor of batch normalization. Frozen layers are left as they are, and no state is held of them.
    """
    settings = config.optimizer
    parts = []
    if settings.clip_norm:
        parts.append(optax.clip_by_global_norm(settings.clip_norm))
    if settings.weight_decay:
        parts.append(optax.add_decayed_weights(settings.weight_decay, mask=_kernels))
    if settings.name == "sgd":
        parts.append(optax.sgd(schedule, settings.momentum))
    else:
        parts.append(optax.adadelta(schedule, rho=0.95, eps=1e-7))
    optimizer = optax.chain(*parts)
    frozen = model.frozen_layers()
    if not frozen:
        return optimizer

    def labels(params: Any) -> dict[str, str]:
        return {layer: "frozen" if layer in frozen else "trained" for layer in params}

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def _kernels(params: Any) -> Any:
    """Whether each leaf is a kernel; masked leaves of frozen layers have no keys below."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def plateau_scale(config: ConfigDict, values: Sequence[float]) -> float:
    """What the learning rate is multiplied by after epochs with these validation losses.

    1 unless `config.optimizer.schedule` is `"plateau"`; then it is multiplied by `plateau_factor` each time the loss
    has not become less for `plateau_patience` epochs. A function of the whole history, so there is no state to save.
    """
    if config.optimizer.schedule != "plateau":
        return 1.0
    state, update = _plateau(config.optimizer.plateau_factor, config.optimizer.plateau_patience)
    for value in values:
        state = update(state, jnp.float32(value))
    return float(state.scale)


@functools.cache
def _plateau(factor: float, patience: int) -> tuple[Any, Callable[[Any, jax.Array], Any]]:
    """The state before the first epoch, and its update; compiled once, as uncompiled it takes 0.3 s a value."""
    plateau = optax.contrib.reduce_on_plateau(factor=factor, patience=patience, rtol=0.0, atol=1e-4)
    return plateau.init({}), jax.jit(lambda state, value: plateau.update({}, state, value=value)[1])
