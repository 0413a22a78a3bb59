"""What a configuration may say: each key, its type and its range. `configs/mobilenet.py` says what they mean."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from mobilenet_jax.errors import ConfigError
from mobilenet_jax.model.mobilenet import ALPHAS, BLOCKS, MAX_IMAGE_SIZE, MIN_IMAGE_SIZE


class _Rule(NamedTuple):
    types: tuple[type, ...]
    accepts: Callable[[Any], bool]
    description: str


def _number(low: float, high: float = float("inf"), *, above: bool = False, below: bool = False) -> _Rule:
    """A number from `low` to `high`; `above` and `below` leave out the bound itself."""
    left, right = "(" if above else "[", ")" if below or high == float("inf") else "]"

    def accepts(x: float) -> bool:
        return (low < x if above else low <= x) and (x < high if below else x <= high and x < float("inf"))

    return _Rule((int, float), accepts, f"a number in {left}{low}, {high}{right}")


def _integer(low: int, high: int | None = None) -> _Rule:
    to = "or more" if high is None else f"to {high}"
    return _Rule((int,), lambda x: low <= x and (high is None or x <= high), f"a whole number, {low} {to}")


def _one_of(*values: Any) -> _Rule:
    types = tuple({type(v) for v in values} | ({int} if isinstance(values[0], float) else set()))
    return _Rule(types, lambda x: x in values, "one of " + ", ".join(map(repr, values)))


MONITORED = tuple(
    f"{side}_{figure}" for side in ("val", "train") for figure in ("loss", "accuracy", "balanced_accuracy")
)

_TEXT = _Rule((str,), lambda _: True, "text")
_SWITCH = _Rule((bool,), lambda _: True, "True or False")

_RULES: dict[str, _Rule] = {
    "seed": _integer(0, 2**32 - 1),
    "data.source": _one_of("sample", "isic2018", "ham10000", "folders", "tfds"),
    "data.dir": _TEXT,
    "data.image_size": _integer(MIN_IMAGE_SIZE, MAX_IMAGE_SIZE),
    "data.split": _TEXT,
    "data.val_fraction": _number(0, 1, above=True, below=True),
    "data.cache": _one_of("none", "memory", "disk"),
    "data.sampling": _one_of("uniform", "balanced"),
    "augment.rotation": _number(0, 180),
    "augment.width_shift": _number(0, 1),
    "augment.height_shift": _number(0, 1),
    "augment.zoom": _number(0, 1, below=True),
    "augment.shear": _number(0, 80),
    "augment.horizontal_flip": _SWITCH,
    "augment.vertical_flip": _SWITCH,
    "augment.fill_mode": _one_of("nearest", "constant", "reflect", "wrap"),
    "augment.fill_value": _number(0, 255),
    "augment.brightness": _number(0, 1),
    "augment.contrast": _number(0, 1),
    "augment.saturation": _number(0, 1),
    "augment.hue": _number(0, 0.5),
    "augment.on_validation": _SWITCH,
    "augment.where": _one_of("host", "device"),
    "model.alpha": _one_of(*ALPHAS),
    "model.head": _one_of("article", "article_bn", "small"),
    "model.dropout": _number(0, 1, below=True),
    "model.num_classes": _integer(2),
    "model.frozen_blocks": _integer(0, len(BLOCKS)),
    "model.batch_norm": _one_of("frozen", "train"),
    "regularizer.kernel_l1": _number(0),
    "regularizer.kernel_l2": _number(0),
    "regularizer.activity_l1": _number(0),
    "regularizer.activity_l2": _number(0),
    "loss.class_weights": _one_of("none", "balanced"),
    "loss.label_smoothing": _number(0, 1, below=True),
    "init.weights": _Rule((str, type(None)), lambda _: True, "text or None"),
    "init.input_scaling": _one_of("1/255", "weights"),
    "optimizer.name": _one_of("sgd", "adadelta"),
    "optimizer.learning_rate": _number(0, above=True),
    "optimizer.momentum": _number(0, 1, below=True),
    "optimizer.schedule": _one_of("constant", "cosine", "plateau"),
    "optimizer.warmup_epochs": _integer(0),
    "optimizer.plateau_factor": _number(0, 1, above=True, below=True),
    "optimizer.plateau_patience": _integer(1),
    "optimizer.clip_norm": _number(0),
    "optimizer.weight_decay": _number(0),
    "train.batch_size": _integer(1),
    "train.epochs": _integer(1),
    "train.precision": _one_of("float32", "bfloat16"),
    "train.ema_decay": _number(0, 1, below=True),
    "early_stopping.enabled": _SWITCH,
    "early_stopping.monitor": _one_of(*MONITORED),
    "early_stopping.mode": _one_of("auto", "min", "max"),
    "early_stopping.min_delta": _number(0),
    "early_stopping.patience": _integer(0),
    "early_stopping.baseline": _Rule((int, float, type(None)), lambda _: True, "a number or None"),
    "early_stopping.start_from_epoch": _integer(0),
}


def parse_config(file: str | None, overrides: Sequence[str]) -> tuple[ConfigDict, str]:
    """Loads a configuration file and applies overrides from the command line.

    Args:
        file: `FILE` or `FILE:RECIPE`.
        overrides: arguments of the form `--config.SECTION.KEY=VALUE`.

    Returns:
        The configuration, and a name for it such as `mobilenet-isic2018`.

    Raises:
        ConfigError: the file or the recipe does not exist, an argument or a key is unknown, or a value has the wrong
            type.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    sys.path.append(os.getcwd())  # a configuration may build on another one: `from configs.mobilenet import ...`
    check_keys(re.findall(r"--config\.([\w.]+)", " ".join(overrides)))
    try:
        rest = values(["", *([f"--config={file}"] if file else []), *overrides])[1:]
    except flags.Error as error:  # the last line is the reason; a traceback through the config file may precede it
        raise ConfigError(str(error).strip().rpartition("\n")[2]) from error
    if values.config is None:
        raise ConfigError("--config=configs/mobilenet.py is missing")
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]}")
    path = config_flags.get_config_filename(values["config"])
    return values.config, Path(path).name.replace(".py", "").replace(":", "-")


def check_config(config: ConfigDict) -> None:
    """Refuses a configuration with a key that is unknown or missing, or a value of the wrong type or out of range.

    Raises:
        ConfigError: names the first such key, its value and what is right.
    """
    values = _flatten(config.to_dict())
    check_keys(values)
    for key, rule in _RULES.items():
        if key not in values:
            raise ConfigError(f"config.{key} is missing: it is {rule.description}")
        value = values[key]
        of_type = isinstance(value, rule.types) and (bool in rule.types or not isinstance(value, bool))
        if not of_type or not rule.accepts(value):
            near = difflib.get_close_matches(value, rule.description.split("'"), 1) if isinstance(value, str) else []
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(f"config.{key} is {value!r}, not {rule.description}{hint}")
    if values["data.source"] != "sample" and not values["data.dir"]:
        raise ConfigError(f"config.data.dir is empty: --config.data.dir=DIR names the {values['data.source']} data")
    if values["init.input_scaling"] == "weights" and not has_weights(config):
        raise ConfigError("config.init.input_scaling is 'weights', and config.init.weights names none: take '1/255'")


def has_weights(config: ConfigDict) -> bool:
    """Whether training starts from weights; on the command line None is text."""
    return config.init.weights not in (None, "", "None")


def check_keys(keys: Iterable[str]) -> None:
    """Refuses a key, such as `train.epochs`, that no configuration has.

    Raises:
        ConfigError: names the first such key and the known one nearest to it.
    """
    for key in keys:
        if key not in _RULES:
            near = difflib.get_close_matches(key, _RULES, 1, 0.5)
            hint = f"did you mean config.{near[0]}?" if near else f"the keys are {', '.join(_RULES)}"
            raise ConfigError(f"unknown key config.{key}: {hint}")


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys whose values differ, as `train.epochs: 10 -> 20`."""
    before, after = _flatten(old), _flatten(new)
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
