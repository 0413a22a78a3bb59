"""Devices and processes: a mesh with one axis, `data`; every device holds the whole state and a share of each batch."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mobilenet_jax.errors import ConfigError

_HEARTBEAT_TIMEOUT = 30  # seconds until the other processes notice that one has died


def connect_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects the processes of a cluster. Must be called before any other use of JAX.

    Args:
        coordinator: `HOST:PORT` of process 0. None reads the environment of Slurm, Open MPI, a TPU pod or Kubernetes;
            without such an environment the process is the only one.
        num_processes: the number of processes.
        process_id: the index of this process, from 0.

    Raises:
        ConfigError: only some of the three are given, or they are invalid.
    """
    given = [x is not None for x in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ConfigError("--coordinator, --num_processes and --process_id must be given together, or none of them")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT)
    except ValueError as error:
        if any(given):
            raise ConfigError(f"--coordinator, --num_processes, --process_id: {error}") from error


def is_first_process() -> bool:
    """Returns whether this is the process that writes files and logs progress."""
    return jax.process_index() == 0


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


def synchronize_processes(name: str) -> None:
    """Waits until every process has called this function with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
