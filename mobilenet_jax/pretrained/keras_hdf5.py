"""Reads MobileNet weights from the HDF5 files Keras 1 and 2 wrote.

Such a file holds one group a layer, and in it datasets named like `conv1/kernel:0`. Only the tensors this project
knows are read, each checked for shape and type before a byte of it is loaded. Links to other files, virtual datasets
and external storage are refused: they would read files the user did not name.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from mobilenet_jax.model import ALPHAS, MobileNet

# The name of each tensor in Keras, by its name in Flax; a depthwise kernel is the one exception.
_KERAS_TENSORS = {
    "kernel": "kernel",
    "scale": "gamma",
    "bias": "beta",
    "mean": "moving_mean",
    "var": "moving_variance",
}
_SHOWN = 4  # so many mismatches are named


class WeightsError(ValueError):
    """A file of weights is not what it was taken for. The message names the file and the tensors."""


def load_pretrained(path: str | Path, alpha: float | None = None) -> tuple[MobileNet, dict[str, Any]]:
    """Loads a MobileNet v1 without its classifier from a Keras HDF5 file.

    Args:
        path: a file such as `mobilenet_2_5_224_tf_no_top.h5`.
        alpha: the width the file is to have; None takes whatever width it has.

    Returns:
        The model without a head, and its variables `{"params": ..., "batch_stats": ...}` as float32 arrays:
        `model.apply(variables, images, train=False)` gives the features. The weights expect images in [-1, 1].

    Raises:
        WeightsError: the file cannot be read as HDF5, or a tensor is missing, unknown, or of another shape or type.
    """
    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            datasets = _datasets(path, file)
            found = _alpha(path, datasets)
            if alpha is not None and alpha != found:
                raise WeightsError(f"{path} holds MobileNet of alpha {found}; the model has alpha {alpha}")
            model = MobileNet(alpha=found, head=None)
            targets = _targets(model)
            _check(path, datasets, targets)
            return model, _read(path, datasets, targets)
    except FileNotFoundError as error:
        raise WeightsError(f"no such file of weights: {path}") from error
    except (OSError, RuntimeError) as error:  # h5py raises either for a damaged file
        raise WeightsError(f"{path} cannot be read as HDF5 weights: {error}") from error


def _datasets(path: Path, file: h5py.File) -> dict[str, h5py.Dataset]:
    """Every dataset by `layer/tensor`, the group that Keras repeats and the `:0` left out. Links are not followed."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        if isinstance(node, h5py.Dataset):
            parts = name.removesuffix(":0").split("/")
            key = f"{parts[0]}/{parts[-1]}" if len(parts) > 1 else name
            if key in found:
                raise WeightsError(f"{path} holds tensor {key} twice: {found[key].name} and {node.name}")
            found[key] = node

    file.visititems(visit)
    return found


def _alpha(path: Path, datasets: dict[str, h5py.Dataset]) -> float:
    kernel = datasets.get("conv1/kernel")
    alphas = {(3, 3, 3, int(32 * alpha)): alpha for alpha in ALPHAS}
    if kernel is None or kernel.shape not in alphas:
        got = "missing" if kernel is None else f"of shape {kernel.shape}"
        raise WeightsError(f"{path} is no MobileNet v1: tensor conv1/kernel is {got}, not (3, 3, 3, 32 alpha)")
    return alphas[kernel.shape]


def _targets(model: MobileNet) -> dict[str, tuple[tuple[str, str, str], tuple[int, ...]]]:
    """Keras's `layer/tensor` -> (collection, layer, tensor) in Flax, and the shape Keras stores."""
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    targets = {}
    for collection, layers in shapes.items():
        for layer, tensors in layers.items():
            for tensor, leaf in tensors.items():
                name, shape = _KERAS_TENSORS[tensor], leaf.shape
                if "_dw_" in layer and tensor == "kernel":
                    name, shape = "depthwise_kernel", (3, 3, shape[3], 1)
                targets[f"{layer}/{name}"] = ((collection, layer, tensor), shape)
    return targets


def _check(path: Path, datasets: dict[str, h5py.Dataset], targets: dict[str, Any]) -> None:
    def refuse(what: str, names: Iterable[str]) -> None:
        listed = sorted(names)
        if listed:
            more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
            raise WeightsError(f"{path}: {what}: {', '.join(listed[:_SHOWN])}{more}")

    refuse("tensors missing from the file", targets.keys() - datasets.keys())
    refuse("tensors this model does not have", datasets.keys() - targets.keys())
    refuse("tensors kept outside the file", (n for n, d in datasets.items() if d.is_virtual or d.external))
    refuse("tensors not of type float32", (f"{n} is {d.dtype}" for n, d in datasets.items() if d.dtype != np.float32))
    wrong_shape = (
        f"{name} is {datasets[name].shape}, not {shape}"
        for name, (_, shape) in targets.items()
        if datasets[name].shape != shape
    )
    refuse("tensors of another shape", wrong_shape)


def _read(path: Path, datasets: dict[str, h5py.Dataset], targets: dict[str, Any]) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    for name, ((collection, layer, tensor), _) in targets.items():
        value = np.asarray(datasets[name])
        if not np.isfinite(value).all():
            raise WeightsError(f"{path}: tensor {name} holds NaN or infinity")
        if name.endswith("depthwise_kernel"):
            value = value.transpose(0, 1, 3, 2)  # (3, 3, channels, 1) -> HWIO with as many groups as channels
        variables.setdefault(collection, {}).setdefault(layer, {})[tensor] = value
    return variables
