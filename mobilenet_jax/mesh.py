"""The devices as a mesh with one axis, `data`: each holds all of the state and a share of every batch."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh() -> Mesh:
    """All devices along `data`. Automatic axes: Linen's dropout and gathers do not take the explicit ones."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def shard(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A host batch spread over the devices; the batch size is a multiple of their number."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def replicate(mesh: Mesh, tree: Any) -> Any:
    """A copy of every array on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
