"""Weights trained elsewhere: read them strictly, fetch the public ones, and write them for others."""

from mobilenet_jax.pretrained.imagenet import imagenet_file
from mobilenet_jax.pretrained.load import load_pretrained, mapping, read_weights
from mobilenet_jax.pretrained.save import check_destination, save_pretrained, write_weights
from mobilenet_jax.pretrained.source import Metadata
from mobilenet_jax.pretrained.tensors import WeightsError
from mobilenet_jax.pretrained.weights import Weights

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
