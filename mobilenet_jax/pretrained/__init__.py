"""Weights trained elsewhere: read them strictly, fetch the public ones, and write them for others."""

from mobilenet_jax.pretrained.files import (
    Weights,
    check_destination,
    load_pretrained,
    mapping,
    read_weights,
    save_pretrained,
    write_weights,
)
from mobilenet_jax.pretrained.imagenet import imagenet_file
from mobilenet_jax.pretrained.source import Metadata
from mobilenet_jax.pretrained.tensors import WeightsError

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
