"""Weights trained elsewhere: read them strictly, fetch the public ones, and write them for others."""

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.imagenet import imagenet_file
from mobilenet_jax.weights.load import load_pretrained, mapping, read_weights
from mobilenet_jax.weights.save import check_destination, save_pretrained, write_weights
from mobilenet_jax.weights.weights import Weights
from mobilenet_jax.weights.weights_file import Metadata

__all__ = [
    "Metadata",
    "Weights",
    "WeightsError",
    "check_destination",
    "imagenet_file",
    "load_pretrained",
    "mapping",
    "read_weights",
    "save_pretrained",
    "write_weights",
]
