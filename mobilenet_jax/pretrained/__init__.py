"""Weights trained elsewhere: read them strictly, and fetch the public ones."""

from mobilenet_jax.pretrained.imagenet import imagenet_file
from mobilenet_jax.pretrained.keras_hdf5 import WeightsError, load_pretrained

__all__ = ["WeightsError", "imagenet_file", "load_pretrained"]
