"""Folders of TensorFlow's SavedModel format."""

import errno
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mobilenet_jax.export.network import Network

_SIGNATURE = "serving_default"


def write(network: "Network", path: Path) -> None:
    """Writes a network. It holds a single operation, the program that XLA compiles for the platform it is run on.

    Raises:
        OSError: the disk is full or fails.
    """
    import tensorflow as tf
    from jax.experimental import jax2tf

    from mobilenet_jax.export.stablehlo import PLATFORMS

    convert = jax2tf.convert(network.apply, with_gradient=False, native_serialization_platforms=PLATFORMS)
    image = tf.TensorSpec(network.input_shape, network.input_type, name="image")
    module = tf.Module()
    module.predict = tf.function(
        lambda image: {network.output: convert(image)}, input_signature=[image], autograph=False
    )
    try:
        tf.saved_model.save(module, str(path), {_SIGNATURE: module.predict})
    except tf.errors.OpError as error:  # "FILE; REASON"
        full = isinstance(error, tf.errors.ResourceExhaustedError)
        raise OSError(errno.ENOSPC if full else errno.EIO, error.message.rpartition("; ")[2], str(path)) from error


def load(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs the network on one input.

    Args:
        path: the folder.
        threads: the number of threads of this process. It cannot be changed later.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    module = tf.saved_model.load(str(path))
    predict = module.signatures[_SIGNATURE]

    def run(image: np.ndarray) -> np.ndarray:
        [output] = predict(image=tf.constant(image)).values()
        return np.asarray(output)

    run.module = module  # type: ignore[attr-defined]  # the signature does not keep it alive
    return run


def count_operations(path: Path) -> Counter[str]:
    """Counts the operations of the graph and its functions by type."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    graph = SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    functions = [node.op for function in graph.library.function for node in function.node_def]
    return Counter(functions + [node.op for node in graph.node])
