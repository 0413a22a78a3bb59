"""Builds Optax optimizers and learning rate schedules from the section `config.optimizer`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from mobilenet_jax.model.mobilenet import BLOCKS, MobileNet, list_layers

OptimizerName = Literal["sgd", "adadelta", "adam", "adamw"]
ScheduleName = Literal["constant", "cosine", "plateau"]

_KERAS_EPSILON = 1e-7  # the default of Keras's Adadelta, Adam and AdamW


def make_schedule(settings: ConfigDict, *, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Builds the learning rate as a function of the step.

    The rate rises linearly from 0 during `warmup_epochs`. After that it is constant, or with the schedule `"cosine"`
    decays to 0 at the end of the last epoch. With the schedule `"plateau"` it is constant too, and the training loop
    multiplies it by `compute_plateau_scale`.

    Args:
        settings: the section `config.optimizer`.
        epochs: the length of the run, for the cosine.
        steps_per_epoch: the number of updates in one epoch.

    Raises:
        ValueError: the schedule is unknown.
    """
    rate = settings.learning_rate
    warmup = settings.warmup_epochs * steps_per_epoch
    if settings.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(rate, max(1, epochs * steps_per_epoch - warmup))
    elif settings.schedule in ("constant", "plateau"):
        schedule = optax.constant_schedule(rate)
    else:
        raise ValueError(f"unknown schedule {settings.schedule!r}")
    if not warmup:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), schedule], [warmup])


def make_optimizer(settings: ConfigDict, schedule: optax.Schedule, model: MobileNet) -> optax.GradientTransformation:
    """Builds the optimizer.

    All optimizers have Keras's decay rates and epsilon. `"sgd"` with momentum and `"adadelta"` equal Keras's as long as
    the learning rate is constant; `"adam"` and `"adamw"` (Loshchilov and Hutter 2019, arXiv:1711.05101) differ from
    Keras's only in the place of the epsilon.

    Gradients are first clipped by their global norm. Weight decay applies to kernels only, not to biases or batch
    normalization: it is added to the gradients, but `"adamw"` subtracts it from the parameters, times the learning
    rate. Finally, all updates of the backbone are multiplied by `backbone_rate_ratio`, which equals a learning rate of
    that ratio, and those of each block by `block_rate_decay` once for each block that follows. Frozen layers are not
    updated, and the optimizer holds no state for them.

    Args:
        settings: the section `config.optimizer`.
        schedule: the learning rate, see `make_schedule`.
        model: its `frozen_layers` are excluded from training, its `backbone_layers` have their own learning rate.

    Raises:
        ValueError: the optimizer is unknown.
    """
    transformations = []
    if settings.clip_norm:
        transformations.append(optax.clip_by_global_norm(settings.clip_norm))
    if settings.weight_decay and settings.name != "adamw":
        transformations.append(optax.add_decayed_weights(settings.weight_decay, mask=_mask_kernels))
    transformations.append(_make_rule(settings, schedule))
    if settings.backbone_rate_ratio != 1:
        transformations.append(_scale_backbone(settings.backbone_rate_ratio, model))
    if settings.block_rate_decay != 1:
        transformations.append(_scale_blocks(settings.block_rate_decay))
    optimizer = optax.chain(*transformations)
    if not model.frozen_layers:
        return optimizer

    def label_layers(params: Any) -> dict[str, str]:
        return {layer: "frozen" if layer in model.frozen_layers else "trained" for layer in params}

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, label_layers)


def _make_rule(settings: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns the update rule that `settings.name` specifies."""
    match settings.name:
        case "sgd":
            return optax.sgd(schedule, settings.momentum)
        case "adadelta":
            return optax.adadelta(schedule, rho=0.95, eps=_KERAS_EPSILON)
        case "adam":
            return optax.adam(schedule, eps=_KERAS_EPSILON)
        case "adamw":
            return optax.adamw(schedule, eps=_KERAS_EPSILON, weight_decay=settings.weight_decay, mask=_mask_kernels)
        case name:
            raise ValueError(f"unknown optimizer {name!r}")


def _scale_backbone(ratio: float, model: MobileNet) -> optax.GradientTransformation:
    """Scales the updates of the backbone; those of the head are unchanged."""

    def mask_backbone(params: Any) -> dict[str, bool]:
        return {layer: layer in model.backbone_layers for layer in params}

    return optax.masked(optax.scale(ratio), mask_backbone)


def _scale_blocks(decay: float) -> optax.GradientTransformation:
    """Scales the updates of each block by `decay ** n`, where n blocks follow it.

    The stem counts as a block. This is the layer-wise decay of Clark et al. 2020 (arXiv:2003.10555) by blocks.
    """
    last = len(BLOCKS)
    block_of = {layer: block for block in range(last, -1, -1) for layer in list_layers(block)}

    def scale(updates: Any, params: Any) -> Any:
        factors = {layer: decay ** (last - block_of.get(layer, last)) for layer in updates}
        return {layer: optax.tree.scale(factors[layer], tensors) for layer, tensors in updates.items()}

    return optax.stateless(scale)


def _mask_kernels(params: Any) -> Any:
    """Returns a tree that is True at kernels. The masked leaves of frozen layers have no keys below the layer."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def compute_plateau_scale(settings: ConfigDict, val_losses: Sequence[float | None]) -> float:
    """Computes the multiplier of the learning rate for the epoch that follows `val_losses`.

    The multiplier is 1 unless the schedule is `"plateau"`. Then it is multiplied by `plateau_factor` each time the
    validation loss has not decreased by at least 1e-4 for `plateau_patience` epochs, as by Keras's `ReduceLROnPlateau`.
    It is a function of the whole history, so there is no state to save.

    Args:
        settings: the section `config.optimizer`.
        val_losses: the validation losses of all epochs of the run so far; only used by `"plateau"`, which requires
            validation examples.
    """
    if settings.schedule != "plateau":
        return 1.0
    state, update = _make_plateau(settings.plateau_factor, settings.plateau_patience)
    for loss in val_losses:
        state = update(state, jnp.float32(loss))
    return float(state.scale)


@functools.cache
def _make_plateau(factor: float, patience: int) -> tuple[Any, Callable[[Any, jax.Array], Any]]:
    """Returns the initial state and its update, which is compiled: uncompiled, each value takes 0.3 s."""
    plateau = optax.contrib.reduce_on_plateau(factor=factor, patience=patience, rtol=0.0, atol=1e-4)
    return plateau.init({}), jax.jit(lambda state, value: plateau.update({}, state, value=value)[1])
