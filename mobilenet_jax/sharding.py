"""Devices: a mesh with one axis, `data`; every device holds the whole state and a share of each batch."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_data_mesh() -> Mesh:
    """Returns a mesh of all devices along `data`, with automatic axes.

    Linen's dropout and gathers raise `ShardingTypeError` with the explicit axes that `jax.make_mesh` makes by default.
    """
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def shard_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Distributes this process's share of a batch over its devices, whose number must divide the batch size."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Copies every array to every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def gather_to_host(tree: Any) -> Any:
    """Copies arrays that are distributed over the devices of all processes to NumPy arrays in every process."""
    return multihost_utils.process_allgather(tree, tiled=True) if jax.process_count() > 1 else jax.device_get(tree)
