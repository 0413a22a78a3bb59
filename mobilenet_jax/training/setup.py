"""Builds the parts of a run from its configuration: augmentation, objective, model, optimizer, steps."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from input_pipeline.augment import Augmentation
from input_pipeline.examples import Examples
from input_pipeline.preprocessing import InputScaling, Preprocessing
from mobilenet_jax.errors import ConfigError
from mobilenet_jax.model.mobilenet import BLOCKS, MobileNet
from mobilenet_jax.sharding import make_data_mesh, replicate
from mobilenet_jax.training.batch_statistics import StatisticsEstimator, make_statistics_estimator
from mobilenet_jax.training.losses import Regularizer, compute_class_weights, compute_logit_offset
from mobilenet_jax.training.mixing import Mixing
from mobilenet_jax.training.optimizer import make_optimizer, make_schedule
from mobilenet_jax.training.step import (
    BatchResult,
    DeviceBatch,
    Objective,
    TrainState,
    create_train_state,
    make_eval_step,
    make_train_step,
)
from mobilenet_jax.weights.hub import is_hub_location
from mobilenet_jax.weights.imagenet import find_imagenet_weights
from mobilenet_jax.weights.layout import VARIANT, Architecture
from mobilenet_jax.weights.load import names_weights, read_weights
from mobilenet_jax.weights.metadata import format_input_scaling

Precision = Literal["float32", "bfloat16"]
InputScalingName = Literal["1/255", "weights"]
_MIN_BATCH = 4  # images; with one, a dense layer would be normalized to 0
_STEPS, _MIN_EPOCHS, _MAX_EPOCHS = 1500, 15, 60  # the length of a run with `train.epochs=0`

_ARTICLE_SCALING = (0.0, 1.0)  # the article divides pixel values by 255
_logger = logging.getLogger(__name__)


def warn_of_contradictions(config: ConfigDict) -> None:
    """Logs warnings about settings that have no effect or conflict with others.

    Args:
        config: the result of `resolve_config`.
    """
    corrections = {
        "data.sampling=balanced": config.data.sampling == "balanced",
        f"loss.class_weights={config.loss.class_weights}": config.loss.class_weights != "none",
        "loss.logit_adjustment": config.loss.logit_adjustment > 0,
    }
    active = [name for name, is_active in corrections.items() if is_active]
    if len(active) > 1:
        _logger.warning("%s: several settings correct for rare classes; use only one of them", " and ".join(active))
    model, batch_size = config.model, config.train.batch_size
    has_trained_block = model.frozen_blocks < len(BLOCKS) or model.batch_norm == "train"
    if batch_size < _MIN_BATCH and (has_trained_block or model.conv_head or model.head == "article_bn"):
        _logger.warning(
            "train.batch_size is %d: batch normalization needs at least %d images per batch", batch_size, _MIN_BATCH
        )
    for key, effect in (
        ("optimizer.warmup_epochs", "the learning rate stays below optimizer.learning_rate"),
        ("loss.weights_from_epoch", "the class weights have no effect"),
    ):
        if config[key] and config[key] >= config.train.epochs:
            _logger.warning("%s is %g, but there are %d epochs: %s", key, config[key], config.train.epochs, effect)
    unused = [key for key, factor in config.regularizer.items() if factor]
    if unused and config.model.head == "small":
        _logger.warning(
            "regularizer.%s has no effect: model.head=small has none of the dense layers that it applies to", unused[0]
        )


def resolve_config(config: ConfigDict, examples: Examples, steps_per_epoch: int) -> ConfigDict:
    """Returns the configuration with each 0 that stands for a value of the data replaced by that value.

    `model.num_classes=0` becomes the number of classes, and `train.epochs=0` the number that `choose_epochs` returns.
    `config.json` records the result.
    """
    resolved = config.copy_and_resolve_references()
    resolved.model.num_classes = config.model.num_classes or len(examples.class_names)
    resolved.train.epochs = config.train.epochs or choose_epochs(steps_per_epoch)
    return resolved


def choose_epochs(steps_per_epoch: int) -> int:
    """Returns the number of epochs for `train.epochs=0`: that of about 1,500 steps, limited to 15 to 60 epochs."""
    return min(max(-(-_STEPS // steps_per_epoch), _MIN_EPOCHS), _MAX_EPOCHS)


def count_steps_per_epoch(batch_size: int, training_images: int) -> int:
    """Returns the number of batches per epoch; the images left over differ from epoch to epoch.

    Raises:
        ConfigError: the batch size exceeds the number of images, or is not divisible by the number of devices.
    """
    if batch_size > training_images:
        raise ConfigError(
            f"config.train.batch_size is {batch_size}, but there are only {training_images} training images: "
            f"use --config.train.batch_size={training_images} or less"
        )
    devices = jax.device_count()
    if batch_size % devices:
        below, above = batch_size // devices * devices, -(-batch_size // devices) * devices
        nearest = f"{below} or {above}" if below else above
        raise ConfigError(
            f"config.train.batch_size is {batch_size}, not divisible by {devices} devices: the nearest are {nearest}"
        )
    return training_images // batch_size


def get_preprocessing(data: ConfigDict) -> Preprocessing:
    """Returns the preprocessing of the configuration section `data`."""
    return Preprocessing(data.resize, data.color_constancy)


def make_augmentation(augment: ConfigDict) -> Augmentation:
    """Returns the augmentation of the configuration section `augment`."""
    others = ("on_validation", "where", *Mixing._fields)
    return Augmentation(**{key: value for key, value in augment.items() if key not in others})


def make_objective(config: ConfigDict, labels: np.ndarray, steps_per_epoch: int) -> Objective:
    """Returns the training objective of a configuration, given the labels of the training examples."""
    loss, classes = config.loss, config.model.num_classes
    return Objective(
        Regularizer(**config.regularizer),
        class_weights=compute_class_weights(labels, classes, loss.class_weights),
        label_smoothing=loss.label_smoothing,
        focal_gamma=loss.focal_gamma,
        logit_offset=compute_logit_offset(labels, classes, loss.logit_adjustment),
        first_weighted_step=loss.weights_from_epoch * steps_per_epoch,
        mixing=Mixing(config.augment.mixup, config.augment.cutmix),
        ema_decay=config.train.ema_decay,
    )


class Program(NamedTuple):
    """A model with its jitted steps.

    Attributes:
        model: the model.
        schedule: the learning rate of each step.
        train_step: see `step.make_train_step`.
        eval_step: see `step.make_eval_step`.
        estimate_statistics: see `batch_statistics.make_statistics_estimator`.
    """

    model: MobileNet
    schedule: optax.Schedule
    train_step: Any
    eval_step: Callable[[TrainState, DeviceBatch], BatchResult]
    estimate_statistics: StatisticsEstimator


def build_program(
    config: ConfigDict, labels: np.ndarray, steps_per_epoch: int, *, pretrained: bool = True
) -> tuple[Program, TrainState, InputScaling]:
    """Builds model, optimizer and jitted steps, and the initial state on all devices; logs the size of the model.

    Args:
        config: the whole configuration.
        labels: int32 `[n]`, the labels of the training examples.
        steps_per_epoch: the number of batches per epoch.
        pretrained: whether to read `init.weights`; a run that is resumed does not need them.

    Returns:
        The program, the state, and the `(low, high)` input range that pixel values 0 and 255 are mapped to.

    Raises:
        ConfigError, WeightsError: see `init_model`.
    """
    # The generator "rbg" compiles in half the time and memory of JAX's default one.
    init_key, dropout_key = jax.random.split(jax.random.key(config.seed, impl="rbg"))
    model, variables, input_scaling = init_model(config, init_key, pretrained=pretrained)
    schedule = make_schedule(config.optimizer, epochs=config.train.epochs, steps_per_epoch=steps_per_epoch)
    optimizer = make_optimizer(config.optimizer, schedule, model)
    train_step = make_train_step(model, optimizer, dropout_key, make_objective(config, labels, steps_per_epoch))
    state = create_train_state(variables["params"], variables["batch_stats"], optimizer, ema=config.train.ema_decay > 0)
    log_model_size(model, state.params)
    program = Program(model, schedule, train_step, make_eval_step(model), make_statistics_estimator(model))
    return program, replicate(make_data_mesh(), state), input_scaling


def init_model(
    config: ConfigDict, key: jax.Array, *, pretrained: bool = True
) -> tuple[MobileNet, dict[str, Any], InputScaling]:
    """Builds the model and its initial variables: random, with the backbone of `init.weights` if given.

    Args:
        config: the whole configuration.
        key: the random key of the initial values.
        pretrained: whether to read `init.weights`.

    Returns:
        The model, its variables `{"params", "batch_stats"}`, and the `(low, high)` input range that pixel values 0 and
        255 are mapped to.

    Raises:
        WeightsError: the weights cannot be read.
        ConfigError: the weights are those of a model with other settings.
    """
    model = MobileNet(**config.model, dtype=jnp.dtype(config.train.precision))
    size = config.data.image_size
    input_scaling: InputScaling = _ARTICLE_SCALING
    backbone: dict[str, Any] = {"params": {}, "batch_stats": {}}
    if pretrained and names_weights(config.init.weights):
        path = find_imagenet_weights(model.alpha, size) if config.init.weights == "imagenet" else config.init.weights
        weights = read_weights(path, head=False)
        _check_variant(model, weights.architecture, path)
        backbone = weights.variables
        if config.init.input_scaling == "weights":
            input_scaling = weights.metadata.input_scaling
        origin = weights.metadata.source if is_hub_location(path) else path  # a location with the commit
        _logger.info("backbone from %s; input scaling %s", origin, format_input_scaling(input_scaling))
    rest = _init_variables(model, size, key, frozenset(backbone["params"]))
    return model, {name: {**rest[name], **layers} for name, layers in backbone.items()}, input_scaling


def _check_variant(model: MobileNet, architecture: Architecture, path: str | Path) -> None:
    """Raises if the model has another width, other layers, padding or epsilon than that of the weights."""
    needed = {name: getattr(architecture, name) for name in ("alpha", "conv_head", *VARIANT)}
    different = {name: value for name, value in needed.items() if value != getattr(model, name)}
    if different:
        options = " ".join(f"--config.model.{name}={value}" for name, value in different.items())
        raise ConfigError(f"{path} holds the weights of a model with other settings: add {options}")


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def _init_variables(model: MobileNet, size: int, key: jax.Array, known: frozenset[str]) -> dict[str, Any]:
    """Initializes the layers that are not in `known`; XLA neither compiles nor computes the others."""
    variables = model.init(key, jnp.zeros((1, size, size, 3)), train=False)
    return {
        name: {layer: tensors for layer, tensors in layers.items() if layer not in known}
        for name, layers in variables.items()
    }


def log_model_size(model: MobileNet, params: dict[str, Any]) -> None:
    """Logs the number of parameters, in total and by part of the model."""
    sizes = {layer: sum(x.size for x in jax.tree.leaves(tensors)) for layer, tensors in params.items()}
    total, frozen = sum(sizes.values()), sum(sizes[layer] for layer in model.frozen_layers)
    head = sum(n for layer, n in sizes.items() if layer not in model.backbone_layers)
    _logger.info(
        "model: %s trainable parameters of %s (%s backbone, %s head), on %d %s device(s)",
        *(f"{n:,}" for n in (total - frozen, total, total - head, head)),
        jax.device_count(),
        jax.default_backend(),
    )


def format_parameters(model: MobileNet, params: dict[str, Any]) -> str:
    """Returns a table with one line per parameter: name, shape, size and whether it is frozen."""
    lines = []
    for layer, tensors in params.items():
        for name, value in tensors.items():
            shape, frozen = "x".join(map(str, value.shape)), "frozen" if layer in model.frozen_layers else ""
            lines.append(f"{f'{layer}.{name}':<28}{shape:>16}{value.size:>12,}  {frozen}".rstrip())
    return "\n".join(lines) + "\n"
