"""Folders in the form of timm and of Transformers: `model.safetensors` with JSON files beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.layout import from_flax
from mobilenet_jax.weights.pytorch.configs import build_files
from mobilenet_jax.weights.pytorch.names import Library, list_counters, map_to_library
from mobilenet_jax.weights.weights import Weights

WEIGHTS_NAME = "model.safetensors"
FILES = {"config.json", "preprocessor_config.json", WEIGHTS_NAME}  # of such a folder


def write_library_folder(path: Path, weights: Weights, library: Library) -> None:
    """Writes a folder that the library loads.

    Args:
        path: the folder, which must not exist.
        weights: the weights, of a model that the library has, see `build_files`.
        library: the library.
    """
    names = map_to_library(library)
    tensors: dict[str, Any] = {
        names[name]: from_flax(name, value, "pytorch") for name, value in weights.tensors.items()
    }
    if weights.architecture.head == "imagenet":
        tensors["classifier.weight"] = tensors["classifier.weight"][:, :, 0, 0]
    layers = [name.split(".")[1].removesuffix("_bn") for name in weights.tensors if name.endswith("_bn.var")]
    tensors |= {name: np.int64(0) for name in list_counters(library, layers)}
    path.mkdir()
    ordered = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    (path / WEIGHTS_NAME).write_bytes(save(ordered, {"format": "pt"}))  # save_file makes it private to its owner
    _check_written(path / WEIGHTS_NAME, ordered)
    for name, content in build_files(library, weights.architecture, weights.metadata).items():
        (path / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_written(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Compares a file with the tensors written to it: Transformers fills missing ones at random, without an error.

    Raises:
        WeightsError: they differ.
    """
    written = load_file(path)
    if written.keys() != tensors.keys() or any(written[name].tobytes() != tensors[name].tobytes() for name in tensors):
        raise WeightsError(f"{path.name} does not hold the tensors that were written: the disk may be faulty")
