"""The main job: a configuration and a workdir to a trained model and its figures."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from input_pipeline.augment import Augmentation
from input_pipeline.errors import DataError
from input_pipeline.examples import Examples
from input_pipeline.sources.registry import read_split
from input_pipeline.splits import count_crossing_lesions, format_split, hash_split
from mobilenet_jax.config import has_weights
from mobilenet_jax.errors import ConfigError, TrainingError, WeightsError, WorkdirError
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.weights.imagenet import find_imagenet_weights
from mobilenet_jax.weights.load import read_weights

ARTICLE_SCALING = (0.0, 1.0)  # 1/255

ERRORS = (ConfigError, DataError, WeightsError, WorkdirError, TrainingError, OSError)  # that a user can mend


def _check_batch_size(batch_size: int, training_images: int) -> None:
    if batch_size > training_images:
        raise ConfigError(f"config.train.batch_size is {batch_size}, more than the training images: {training_images}")
    devices = jax.device_count()
    if batch_size % devices:
        below, above = batch_size // devices * devices, -(-batch_size // devices) * devices
        nearest = f"{below} or {above}" if below else above
        raise ConfigError(
            f"config.train.batch_size is {batch_size}, no multiple of {devices} devices: the nearest are {nearest}"
        )


def make_augmentation(augment: ConfigDict) -> Augmentation:
    """Returns the augmentation that the configuration section `augment` specifies."""
    return Augmentation(**{k: v for k, v in augment.items() if k not in ("on_validation", "where")})


def load_examples(data: ConfigDict, num_classes: int, seed: int) -> tuple[Examples, Examples]:
    """The examples for training and validation that a configuration names, each image checked.

    Raises:
        DataError: see `input_pipeline`.
        ConfigError: the data's classes are not as many as the model's.
    """
    how = data.split
    training, validation = read_split(data.source, data.dir, how, val_fraction=data.val_fraction, seed=seed)
    if len(training.class_names) != num_classes:
        raise ConfigError(f"config.model.num_classes is {num_classes}, the data have {len(training.class_names)}")
    for name, part in (("training", training), ("validation", validation)):
        counts = np.bincount(part.labels, minlength=len(part.class_names))
        table = " ".join(f"{n} {c}" for n, c in zip(part.class_names, counts, strict=True))
        print(f"{name}: {len(part)} images of {len(set(part.lesions))} lesions ({table})")
    crossing = count_crossing_lesions(training, validation)
    print(f"split {how}, hash {hash_split(format_split(training, validation))[:12]}; lesions on both sides: {crossing}")
    if crossing:
        print("warning: lesions that were trained on are validated on, and flatter; data.split=lesion keeps them apart")
    return training, validation


def init_model(config: ConfigDict, key: jax.Array) -> tuple[MobileNet, dict[str, Any], tuple[float, float]]:
    """The model of a configuration, its first variables, and what pixel values 0 and 255 are mapped to for it.

    The variables are random; the backbone's are from `init.weights` if that is given.

    Raises:
        WeightsError: the weights cannot be had, or are not for this model.
    """
    model = MobileNet(**config.model, dtype=jnp.dtype(config.train.precision))
    size, scaling = config.data.image_size, ARTICLE_SCALING
    variables = jax.jit(lambda key: model.init(key, jnp.zeros((1, size, size, 3)), train=False))(key)
    if has_weights(config):
        path = find_imagenet_weights(model.alpha, size) if config.init.weights == "imagenet" else config.init.weights
        weights = read_weights(path, model.alpha, head=False)
        backbone = weights.variables
        variables = {name: {**variables[name], **backbone[name]} for name in ("params", "batch_stats")}
        if config.init.input_scaling == "weights":
            scaling = weights.metadata.input_scaling
        print(f"backbone from {path}; pixels scaled to [{scaling[0]:g}, {scaling[1]:g}]")
    return model, variables, scaling


def parameter_table(model: MobileNet, variables: dict[str, Any]) -> str:
    """Every parameter's name, shape, size and whether it is trained, a line each."""
    frozen, rows = model.frozen_layers(), []
    for layer, tensors in variables["params"].items():
        for name, value in tensors.items():
            shape = "x".join(map(str, value.shape))
            rows.append(
                f"{f'{layer}.{name}':<28}{shape:>16}{value.size:>12,}  {'frozen' if layer in frozen else ''}".rstrip()
            )
    return "\n".join(rows) + "\n"


def _parameter_lines(model: MobileNet, variables: dict[str, Any]) -> str:
    """How many parameters there are, and where."""
    sizes = {layer: sum(x.size for x in jax.tree.leaves(tree)) for layer, tree in variables["params"].items()}
    head = sum(n for layer, n in sizes.items() if layer.startswith(("dense_", "predictions", "conv_preds")))
    trained = sum(sizes.values()) - sum(sizes[layer] for layer in model.frozen_layers())
    return (
        f"model: {trained:,} trainable parameters of {sum(sizes.values()):,} ({sum(sizes.values()) - head:,} backbone, "
        f"{head:,} head), on {jax.device_count()} {jax.default_backend()} device(s)"
    )
