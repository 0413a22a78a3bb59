"""Runs the Python blocks of documents, in folders that hold the files that the blocks read."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.save import write_weights
from mobilenet_jax.weights.weights import Weights
from tests.helpers.weights_files import make_random_tensors, write_keras_2

_CLASSES = ("cat", "dog", "horse")
_UNKNOWN = Metadata()
_BACKBONE = Architecture(0.25, None, 0, 1)


def run_python_blocks(text: str, names: dict[str, Any]) -> int:
    """Runs the Python blocks of a document in the current folder, from top to bottom, in one namespace.

    Args:
        text: the document.
        names: the variables that the document assumes.

    Returns:
        The number of blocks.
    """
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for block in blocks:
        exec(block, names)
    return len(blocks)


def write_photos(folder: Path) -> list[Path]:
    """Writes four photographs for each of three classes, in one folder per class, and returns their paths."""
    rng = np.random.default_rng(0)
    paths = [folder / name / f"{name}{i}.jpg" for name in _CLASSES for i in range(4)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(path)
    return paths


def _write(path: Path, architecture: Architecture, metadata: Metadata = _UNKNOWN) -> None:
    write_weights(path, Weights("test", "", architecture, make_random_tensors(architecture), metadata))


def _prepare_python(folder: Path) -> dict[str, Any]:
    write_photos(folder / "photos")
    metadata = Metadata((64, 64), (-1.0, 1.0), _CLASSES)
    _write(folder / "model.safetensors", Architecture(0.25, "small", 3, 1), metadata)
    _write(folder / "backbone.safetensors", _BACKBONE, replace(metadata, classes=None))
    return {}


def _prepare_getting_started(folder: Path) -> dict[str, Any]:
    write_keras_2(folder / "mobilenet_1_0_224_tf_no_top.h5", Architecture(1.0, None, 0, 1))
    return {}


def _prepare_weights(folder: Path) -> dict[str, Any]:
    _write(folder / "classifier.weights.h5", Architecture(0.25, "article", 7, 16))
    _write(folder / "backbone.weights.h5", _BACKBONE)
    _write(folder / "w.safetensors", _BACKBONE)
    _write(folder / "folder", _BACKBONE)
    return {"images": np.zeros((1, 128, 128, 3), np.float32)}


def _prepare_input_scaling(folder: Path) -> dict[str, Any]:
    file = write_keras_2(folder / "backbone.h5")
    return {"FILE": file, "IMAGES": list(map(str, write_photos(folder / "photos")[:2]))}


def _prepare_input_pipeline(folder: Path) -> dict[str, Any]:
    _write(folder / "w.safetensors", Architecture(0.25, "small", 3, 1), Metadata((32, 32), (-1.0, 1.0), _CLASSES))
    return {"WEIGHTS": folder / "w.safetensors", "FILES": list(map(str, write_photos(folder / "photos")))}


# Writes the files that a document reads, and returns the variables that it assumes.
PREPARATIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "docs/python.md": _prepare_python,
    "docs/getting-started.md": _prepare_getting_started,
    "docs/weights.md": _prepare_weights,
    "docs/evaluation.md": lambda folder: {},
    "benchmarks/results/input_pipeline.md": _prepare_input_pipeline,
    "benchmarks/results/input_scaling.md": _prepare_input_scaling,
}
