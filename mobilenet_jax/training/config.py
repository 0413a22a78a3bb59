"""Parses and validates a configuration.

`configs/mobilenet.py` documents every key and its default. This module knows each key's type and range; the choices of
a key are those of the module that implements them.
"""

import contextlib
import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import RequiredValueError

from input_pipeline.augment import NUM_OPERATIONS, FillMode
from input_pipeline.batches import AugmentOn, Sampling
from input_pipeline.cache import CacheKind
from input_pipeline.preprocessing import ColorConstancy, Resize
from input_pipeline.sources.registry import SOURCES
from mobilenet_jax.errors import ConfigError
from mobilenet_jax.model.mobilenet import (
    BLOCKS,
    MAX_IMAGE_SIZE,
    MIN_IMAGE_SIZE,
    TRAINABLE_HEADS,
    FrozenBatchNorm,
    StridedPadding,
    is_width_multiplier,
)
from mobilenet_jax.training.config_files import load_config
from mobilenet_jax.training.early_stopping import Mode
from mobilenet_jax.training.history import MONITORS
from mobilenet_jax.training.losses import ClassWeighting
from mobilenet_jax.training.optimizer import OptimizerName, ScheduleName
from mobilenet_jax.training.setup import InputScalingName, Precision
from mobilenet_jax.weights.load import names_weights

# Keys that were added after the first version, with the values that reproduce the runs before. Every later key needs a
# line here, so that these runs can be resumed.
ADDED_KEYS: dict[str, Any] = {
    "data.skip_damaged": False,
    "data.resize": "stretch",
    "data.color_constancy": "none",
    "augment.crop_area": 1.0,
    "augment.crop_ratio": 1.0,
    "augment.operations": 0,
    "augment.mixup": 0.0,
    "augment.cutmix": 0.0,
    "model.batch_norm_momentum": 0.99,
    "model.batch_norm_epsilon": 1e-3,
    "model.padding": "keras",
    "model.conv_head": False,
    "loss.weights_from_epoch": 0,
    "loss.focal_gamma": 0.0,
    "loss.logit_adjustment": 0.0,
    "loss.soft_labels": "",
    "loss.soft_labels_weight": 0.5,
    "optimizer.backbone_rate_ratio": 1.0,
    "optimizer.block_rate_decay": 1.0,
    "train.reestimate_batch_norm": 0,
}


class _Rule(NamedTuple):
    """The values that a key accepts."""

    types: tuple[type, ...]
    accepts: Callable[[Any], bool]
    description: str
    choices: tuple[str, ...] = ()


def _make_number_rule(
    low: float, high: float = float("inf"), *, exclude_low: bool = False, exclude_high: bool = False
) -> _Rule:
    """Returns the rule for a finite number between `low` and `high`."""
    left, right = "(" if exclude_low else "[", ")" if exclude_high or high == float("inf") else "]"

    def accepts(x: float) -> bool:
        above = low < x if exclude_low else low <= x
        below = x < high if exclude_high else x <= high
        return above and below and x < float("inf")

    return _Rule((int, float), accepts, f"a number in {left}{low}, {high}{right}")


def _make_integer_rule(low: int, high: int | None = None) -> _Rule:
    """Returns the rule for an integer between `low` and `high`."""
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
    return _Rule((int,), lambda x: low <= x and (high is None or x <= high), f"an integer {bounds}")


def _make_choice_rule(*values: str) -> _Rule:
    """Returns the rule for a choice."""
    return _Rule((str,), lambda x: x in values, "one of " + ", ".join(map(repr, values)), values)


_TEXT = _Rule((str,), lambda _: True, "a string")
# `reporting/published_config.py` repeats these: neither package imports the other. A test compares them.
_PATHS = (("data", "dir"), ("data", "split"), ("init", "weights"), ("loss", "soft_labels"))
_OPTIONAL_TEXT = _Rule((str, type(None)), lambda _: True, "a string or None")
_OPTIONAL_NUMBER = _Rule((int, float, type(None)), lambda x: x is None or math.isfinite(x), "a finite number or None")
_SWITCH = _Rule((bool,), lambda _: True, "True or False")
_FRACTION = _make_number_rule(0, 1, exclude_high=True)  # [0, 1)
_FORM = ": settings have the form --config.SECTION.KEY=VALUE"
_NUM_CLASSES = _Rule((int,), lambda x: x == 0 or x >= 2, "an integer of at least 2, or 0")

_RULES: dict[str, _Rule] = {
    "seed": _make_integer_rule(0, 2**32 - 1),
    "data.source": _make_choice_rule(*SOURCES),
    "data.dir": _TEXT,
    "data.image_size": _make_integer_rule(MIN_IMAGE_SIZE, MAX_IMAGE_SIZE),
    "data.resize": _make_choice_rule(*get_args(Resize)),
    "data.color_constancy": _make_choice_rule(*get_args(ColorConstancy)),
    "data.split": _TEXT,
    "data.val_fraction": _make_number_rule(0, 1, exclude_low=True, exclude_high=True),
    "data.cache": _make_choice_rule(*get_args(CacheKind)),
    "data.skip_damaged": _SWITCH,
    "data.sampling": _make_choice_rule(*get_args(Sampling)),
    "augment.rotation": _make_number_rule(0, 180),
    "augment.width_shift": _make_number_rule(0, 1),
    "augment.height_shift": _make_number_rule(0, 1),
    "augment.zoom": _FRACTION,
    "augment.shear": _make_number_rule(0, 80),
    "augment.horizontal_flip": _SWITCH,
    "augment.vertical_flip": _SWITCH,
    "augment.fill_mode": _make_choice_rule(*get_args(FillMode)),
    "augment.fill_value": _make_number_rule(0, 255),
    "augment.brightness": _make_number_rule(0, 1),
    "augment.contrast": _make_number_rule(0, 1),
    "augment.saturation": _make_number_rule(0, 1),
    "augment.hue": _make_number_rule(0, 0.5),
    "augment.crop_area": _make_number_rule(0, 1, exclude_low=True),
    "augment.crop_ratio": _make_number_rule(1, 10),
    "augment.operations": _make_integer_rule(0, NUM_OPERATIONS),
    "augment.mixup": _make_number_rule(0),
    "augment.cutmix": _make_number_rule(0),
    "augment.on_validation": _SWITCH,
    "augment.where": _make_choice_rule(*get_args(AugmentOn)),
    "model.alpha": _Rule((int, float), is_width_multiplier, "a positive multiple of 1/32"),
    "model.head": _make_choice_rule(*TRAINABLE_HEADS),
    "model.dropout": _FRACTION,
    "model.num_classes": _NUM_CLASSES,
    "model.frozen_blocks": _make_integer_rule(0, len(BLOCKS)),
    "model.batch_norm": _make_choice_rule(*get_args(FrozenBatchNorm)),
    "model.batch_norm_momentum": _FRACTION,
    "model.batch_norm_epsilon": _make_number_rule(0, 1, exclude_low=True, exclude_high=True),
    "model.padding": _make_choice_rule(*get_args(StridedPadding)),
    "model.conv_head": _SWITCH,
    "regularizer.kernel_l1": _make_number_rule(0),
    "regularizer.kernel_l2": _make_number_rule(0),
    "regularizer.activity_l1": _make_number_rule(0),
    "regularizer.activity_l2": _make_number_rule(0),
    "loss.class_weights": _make_choice_rule(*get_args(ClassWeighting)),
    "loss.weights_from_epoch": _make_integer_rule(0),
    "loss.label_smoothing": _FRACTION,
    "loss.focal_gamma": _make_number_rule(0),
    "loss.logit_adjustment": _make_number_rule(0),
    "loss.soft_labels": _TEXT,
    "loss.soft_labels_weight": _make_number_rule(0, 1),
    "init.weights": _OPTIONAL_TEXT,
    "init.input_scaling": _make_choice_rule(*get_args(InputScalingName)),
    "optimizer.name": _make_choice_rule(*get_args(OptimizerName)),
    "optimizer.learning_rate": _make_number_rule(0, exclude_low=True),
    "optimizer.momentum": _FRACTION,
    "optimizer.schedule": _make_choice_rule(*get_args(ScheduleName)),
    "optimizer.warmup_epochs": _make_integer_rule(0),
    "optimizer.plateau_factor": _make_number_rule(0, 1, exclude_low=True, exclude_high=True),
    "optimizer.plateau_patience": _make_integer_rule(1),
    "optimizer.clip_norm": _make_number_rule(0),
    "optimizer.weight_decay": _make_number_rule(0),
    "optimizer.backbone_rate_ratio": _make_number_rule(0, exclude_low=True),
    "optimizer.block_rate_decay": _make_number_rule(0, 1, exclude_low=True),
    "train.batch_size": _make_integer_rule(1),
    "train.epochs": _make_integer_rule(0),
    "train.precision": _make_choice_rule(*get_args(Precision)),
    "train.ema_decay": _FRACTION,
    "train.reestimate_batch_norm": _make_integer_rule(0),
    "early_stopping.enabled": _SWITCH,
    "early_stopping.monitor": _make_choice_rule(*MONITORS),
    "early_stopping.mode": _make_choice_rule(*get_args(Mode)),
    "early_stopping.min_delta": _make_number_rule(0),
    "early_stopping.patience": _make_integer_rule(0),
    "early_stopping.baseline": _OPTIONAL_NUMBER,
    "early_stopping.start_from_epoch": _make_integer_rule(0),
}


def parse_config(specification: str | None, overrides: Sequence[str]) -> tuple[ConfigDict, str]:
    """Loads a configuration and applies overrides from the command line.

    Args:
        specification: a file or the name of a shipped configuration, as in `load_config`.
        overrides: arguments of the form `--config.SECTION.KEY=VALUE`.

    Returns:
        The configuration, and a name for it such as `mobilenet-isic2018`.

    Raises:
        ConfigError: the file or the recipe does not exist, an argument or a key is unknown, or a value has the wrong
            type.
    """
    check_keys(list_keys(overrides))
    if not specification:  # one of the other arguments may be a misspelt --config
        _parse_overrides(ConfigDict(), [argument for argument in overrides if not argument.startswith("--config.")])
        raise ConfigError("--config is missing: name a file or a shipped configuration, such as --config=sample")
    specification = os.path.expanduser(specification)
    config = load_config(specification)
    for key in list_keys(overrides):
        section, _, name = key.rpartition(".")
        values = config.get(section) if section else config
        if not isinstance(values, ConfigDict) or name not in values:
            raise ConfigError(f"{specification} lacks config.{key}: add it to the file")
    try:
        config, rest = _parse_overrides(config, overrides)
    except RequiredValueError as error:  # raised by ml_collections even if an override has the value
        raise ConfigError(f"{specification} has a required placeholder: set its value in the file") from error
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]}{_FORM}")
    for section, key in _PATHS:  # shells leave the ~ of --config.data.dir=~/images as it is
        with contextlib.suppress(AttributeError):  # not a section: `check_config` reports it
            if isinstance(value := config.get(section, {}).get(key), str):
                config[section][key] = os.path.expanduser(value)
    return config, Path(specification).name.replace(".py", "").replace(":", "-")


def _parse_overrides(config: ConfigDict, overrides: Sequence[str]) -> tuple[ConfigDict, list[str]]:
    """Returns a configuration with overrides, and the arguments that are not options."""
    values, arguments = flags.FlagValues(), ["", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        rest = values(arguments)[1:]
    except (flags.Error, ValueError) as error:  # ValueError: an argument such as --config.train.epochs:3
        raise ConfigError(_describe_parsing_error(error)) from error
    return values.config, rest


def _describe_parsing_error(error: Exception) -> str:
    """Returns the message for an override that absl or ml_collections cannot parse."""
    message = str(error).strip().rpartition("\n")[2]
    if value := re.match(r"flag --config\.([\w.]+)=(.*?): ", message):
        description = _RULES[value[1]].description.replace("or None", "(None is set in the file)")
        return f"config.{value[1]} is {value[2]!r}, but must be {description}"
    if name := re.match(r"Unknown command line flag '(.*?)'", message):
        return f"unknown option --{name[1]}{_FORM}"
    return re.sub(r"(Could not parse .*?): .*", rf"\1{_FORM}", message)


def list_keys(overrides: Sequence[str]) -> list[str]:
    """Returns the keys of arguments of the form `--config.SECTION.KEY=VALUE`; absl also accepts one dash."""
    return re.findall(r"(?:^|\s)--?config\.([\w.]+)", " ".join(overrides))


def check_config(config: ConfigDict) -> None:
    """Validates a configuration.

    Raises:
        ConfigError: a key is unknown or missing, or its value has the wrong type or is out of range. The message names
            the first such key, its value, and the valid ones.
    """
    try:
        values = _flatten(config.to_dict())
    except RequiredValueError as error:
        raise ConfigError("a required placeholder has no value: set it") from error
    check_keys(values)
    for key, rule in _RULES.items():
        if key not in values:
            raise ConfigError(f"config.{key} is missing: add it to the file, as {rule.description}")
        value = values[key]
        has_type = isinstance(value, rule.types) and (bool in rule.types or not isinstance(value, bool))
        if not has_type or not rule.accepts(value):
            near = difflib.get_close_matches(value, rule.choices, 1) if isinstance(value, str) else []
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(f"config.{key} is {value!r}, but must be {rule.description}{hint}")
    if values["data.source"] != "sample" and not values["data.dir"]:
        raise ConfigError(f"config.data.dir is empty: use --config.data.dir=DIR for the {values['data.source']} data")
    if values["data.source"] == "sample" and values["data.dir"]:
        raise ConfigError(
            "config.data.dir is set, but config.data.source is 'sample', which has no folder: specify the layout of "
            "your data with --config.data.source"
        )
    if values["loss.weights_from_epoch"] and values["loss.class_weights"] == "none":
        raise ConfigError("config.loss.weights_from_epoch is set, but config.loss.class_weights is 'none'")
    if values["init.input_scaling"] == "weights" and not names_weights(config.init.weights):
        raise ConfigError(
            "config.init.input_scaling is 'weights', but config.init.weights is not set: add "
            "--config.init.input_scaling=1/255 to train from random weights"
        )


def check_keys(keys: Iterable[str]) -> None:
    """Checks that keys such as `train.epochs` exist.

    Raises:
        ConfigError: a key is unknown. The message names it and the most similar one.
    """
    for key in keys:
        if key not in _RULES:
            near = difflib.get_close_matches(key, _RULES, 1, 0.5)
            hint = f"did you mean config.{near[0]}?" if near else f"the keys are {', '.join(_RULES)}"
            raise ConfigError(f"unknown key config.{key}: {hint}")


def find_differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the old and the new value of each key, such as `train.epochs`, whose values differ; None if missing.

    Both may be configurations of an earlier version, without the keys in `ADDED_KEYS`.
    """
    before, after = ADDED_KEYS | _flatten(old), ADDED_KEYS | _flatten(new)
    for values in (before, after):
        if not names_weights(values.get("init.weights")):
            values["init.weights"] = None  # the command line passes it as text
    keys = sorted(before.keys() | after.keys())
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values by their dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
