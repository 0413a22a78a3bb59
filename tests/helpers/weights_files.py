"""Writes intact weights files of every format, without Keras."""

import zipfile
import zlib

import h5py
import numpy as np
import safetensors.numpy

from mobilenet_jax.weights.keras.names import map_to_keras_3
from mobilenet_jax.weights.layout import Architecture, from_flax
from mobilenet_jax.weights.pytorch.names import map_to_library
from mobilenet_jax.weights.tensorflow.checkpoint import map_to_slim

BACKBONE = Architecture(0.25, None, 0, 1)

_KERAS_2_NAMES = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}


def make_random_tensors(architecture=BACKBONE):
    """Returns random tensors in Flax's layout; the same name and shape always get the same values."""
    return {name: _sample(shape, name) for name, shape in architecture.compute_shapes().items()}


def _sample(shape, name):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


def write_keras_2(path, architecture=BACKBONE):
    """Writes random tensors as Keras 2 does, and returns the path."""
    with h5py.File(path, "w") as file:
        for name, value in make_random_tensors(architecture).items():
            _, layer, tensor = name.split(".")
            if tensor == "kernel":
                keras_name = "depthwise_kernel" if layer.startswith("conv_dw") else "kernel"
            else:
                keras_name = _KERAS_2_NAMES[tensor] if layer.endswith("_bn") else tensor
            file[f"{layer}/{layer}/{keras_name}:0"] = from_flax(name, value, "keras")
    return path


def write_keras_3(path):
    """Writes the random tensors of a backbone as Keras 3 does, and returns the path."""
    tensors = make_random_tensors()
    with h5py.File(path, "w") as file:
        for name, keras_name in map_to_keras_3(tensors).items():
            file[keras_name] = from_flax(name, tensors[name], "keras")
            file[keras_name].parent.attrs["name"] = name.split(".")[1]
    return path


def write_archive(path, weights, members=None):
    """Writes a `.keras` archive.

    Args:
        path: the archive.
        weights: the path of its `.weights.h5`.
        members: the contents of more members, by name.
    """
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(weights, "model.weights.h5")
        for name, content in (members or {}).items():
            archive.writestr(name, content)


def write_safetensors(path, metadata=None, **changes):
    """Writes the random tensors of a backbone as safetensors; `changes` replaces some of them, by name."""
    safetensors.numpy.save_file(make_random_tensors() | changes, path, metadata)


def write_library_file(path, library, architecture=BACKBONE, **changes):
    """Writes random tensors in the form of timm or Transformers; `changes` replaces some, by their name there."""
    names, tensors = map_to_library(library), make_random_tensors(architecture)
    theirs = {names[name]: np.array(from_flax(name, value, "pytorch"), order="C") for name, value in tensors.items()}
    safetensors.numpy.save_file(theirs | changes, path, {"format": "pt"})


def write_checkpoint(prefix, architecture=BACKBONE, *, tensors=None, **changes):
    """Writes tensors, by default random ones, as TensorFlow's slim does, with variables of its optimizer.

    Returns the prefix.
    """
    import tensorflow as tf

    names, tensors = map_to_slim(), tensors or make_random_tensors(architecture)
    variables = {names[name]: from_flax(name, value, "keras") for name, value in tensors.items()}
    variables |= {f"{name}/RMSProp": value for name, value in variables.items()}
    variables |= {"global_step": np.int64(1)} | changes
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(variables),
        tensors=[tf.constant(value) for value in variables.values()],
    )
    return prefix


def are_equal(a, b):
    """Returns whether two dicts of tensors are bitwise identical."""
    return a.keys() == b.keys() and all(
        a[name].shape == b[name].shape and a[name].tobytes() == b[name].tobytes() for name in a
    )
