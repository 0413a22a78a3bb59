"""MobileNet v1 in JAX/Flax: the model, its ImageNet weights, and fine-tuning.

    from mobilenet_jax import MobileNet, load_pretrained, save_pretrained, train_and_evaluate

Each name is imported on first use: the model and the weights do not need TensorFlow, except for checkpoints of
TensorFlow 1.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilenet_jax.model.mobilenet import MobileNet
    from mobilenet_jax.training.loop import train_and_evaluate
    from mobilenet_jax.weights.load import load_pretrained, read_weights
    from mobilenet_jax.weights.metadata import Metadata
    from mobilenet_jax.weights.save import save_pretrained

__all__ = ["Metadata", "MobileNet", "load_pretrained", "read_weights", "save_pretrained", "train_and_evaluate"]

_MODULES = {
    "Metadata": "mobilenet_jax.weights.metadata",
    "MobileNet": "mobilenet_jax.model.mobilenet",
    "load_pretrained": "mobilenet_jax.weights.load",
    "read_weights": "mobilenet_jax.weights.load",
    "save_pretrained": "mobilenet_jax.weights.save",
    "train_and_evaluate": "mobilenet_jax.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
