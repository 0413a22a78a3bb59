"""A MobileNet of five blocks, for tests to which the number of blocks does not matter: it compiles in half the time."""

import contextlib
import importlib
from collections.abc import Iterator

import pytest

from mobilenet_jax.model.mobilenet import MobileNet

BLOCKS = ((64, 1), (128, 2), (256, 2), (512, 2), (1024, 2))  # each width and each stride of 2 once
USERS = (
    "mobilenet_jax.model.mobilenet",
    "mobilenet_jax.training.config",
    "mobilenet_jax.training.optimizer",
    "mobilenet_jax.export.onnx_graph",
    "mobilenet_jax.weights.layout",
    "mobilenet_jax.weights.pytorch.names",
    "mobilenet_jax.weights.tensorflow.checkpoint",
)


@contextlib.contextmanager
def shorten_network() -> Iterator[None]:
    """Replaces the blocks of the network in every module that uses them."""
    modules, compute_hash = [importlib.import_module(name) for name in USERS], MobileNet.__hash__
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "BLOCKS", BLOCKS)
        # Functions that JAX compiled for the whole network have another key in its caches.
        patch.setattr(MobileNet, "__hash__", lambda model: hash((compute_hash(model), BLOCKS)))
        yield
