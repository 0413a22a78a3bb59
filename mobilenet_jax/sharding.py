"""The devices as a mesh with one axis, `data`: each holds all of the state and a share of every batch."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mobilenet_jax.errors import ConfigError


def connect_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the processes of a cluster, before anything else is asked of JAX.

    Args:
        coordinator: `HOST:PORT` of process 0; None looks for what Slurm, Open MPI, or a TPU's or Kubernetes'
            environment says, and takes a process without such for the only one.
        num_processes: how many there are.
        process_id: which this is.

    Raises:
        ConfigError: only some of the three are given, or they cannot be.
    """
    given = [x is not None for x in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ConfigError("--coordinator, --num_processes and --process_id go together: give all three or none")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=30)
    except ValueError as error:
        if any(given):
            raise ConfigError(f"--coordinator, --num_processes, --process_id: {error}") from error


def make_data_mesh() -> Mesh:
    """All devices along `data`. Automatic axes: Linen's dropout and gathers do not take the explicit ones."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def get_process() -> tuple[int, int]:
    """This process's number, from 0, and how many there are."""
    return jax.process_index(), jax.process_count()


def shard_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A host batch, or this process's share of one, spread over the devices, whose number divides its size."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def replicate(mesh: Mesh, tree: Any) -> Any:
    """A copy of every array on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def gather_to_host(tree: Any) -> Any:
    """Arrays spread over the devices of all processes, whole, as numpy arrays, in every process."""
    return multihost_utils.process_allgather(tree, tiled=True) if jax.process_count() > 1 else jax.device_get(tree)
