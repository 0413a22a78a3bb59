"""MobileNet v1 in JAX/Flax: the model, its ImageNet weights, and its fine-tuning.

    from mobilenet_jax import MobileNet, load_pretrained, save_pretrained, train_and_evaluate

`train_and_evaluate` needs TensorFlow, for reading images; it is imported when it is first asked for, so the model and
the weights can be used where TensorFlow is not installed.
"""

from typing import TYPE_CHECKING, Any

from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.weights.load import load_pretrained, read_weights
from mobilenet_jax.weights.save import save_pretrained
from mobilenet_jax.weights.weights_file import Metadata

if TYPE_CHECKING:
    from mobilenet_jax.training.setup import train_and_evaluate

__all__ = ["Metadata", "MobileNet", "load_pretrained", "read_weights", "save_pretrained", "train_and_evaluate"]


def __getattr__(name: str) -> Any:
    if name == "train_and_evaluate":
        from mobilenet_jax.training.setup import train_and_evaluate

        return train_and_evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
