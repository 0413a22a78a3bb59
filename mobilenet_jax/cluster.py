"""The processes of a cluster: they connect, agree on values, and end together."""

import atexit
import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from input_pipeline.errors import get_first_line
from mobilenet_jax.errors import ConfigError, Interrupted, TrainingError

_HEARTBEAT_TIMEOUT = 30  # seconds until the other processes notice that one has died
_POLL_INTERVAL = 0.5  # seconds between checks for an error of another process
_ERROR_TIMEOUT = 10  # seconds that a process with an error waits until the others have read it
_END_TIMEOUT = 600  # seconds between the ends of two processes; the first one writes the last files
_ERROR_KEY = "mobilenet-jax/error"
_NUMBERS_OF_PROCESSES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")  # environment variables
_CONNECTION_ERRORS = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "Gloo", "NCCL", "Connection")


def connect_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects the processes of a cluster. Must be called before any other use of JAX.

    Args:
        coordinator: `HOST:PORT` of process 0. None reads the environment of Slurm, Open MPI 4, a TPU pod or GKE's TPUs;
            without such an environment the process is the only one.
        num_processes: the number of processes.
        process_id: the index of this process, from 0.

    Raises:
        ConfigError: only some of the three are given, they are invalid, or Open MPI 5 started several processes.
    """
    _check_address(coordinator)
    given = [x is not None for x in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ConfigError("--coordinator, --num_processes and --process_id must be given together, or none of them")
    if not any(given) and {os.environ.get(name) for name in _NUMBERS_OF_PROCESSES} - {None} == {"1"}:
        return  # connecting would take a port that other runs of the same job use
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT)
    except ValueError as error:
        if any(given):
            raise ConfigError(f"--coordinator, --num_processes, --process_id: {error}") from error
        if "OMPI_COMM_WORLD_SIZE" in os.environ:
            raise ConfigError(
                "Open MPI 5 does not provide the address of process 0: specify --coordinator, --num_processes and "
                "--process_id"
            ) from error
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f"the processes cannot connect to {coordinator or 'process 0'}: {get_first_line(error)}"
        ) from error


def _check_address(coordinator: str | None) -> None:
    """Raises unless an address is `HOST:PORT`: JAX ends the process for some others."""
    if coordinator is None:
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise ConfigError(f"--coordinator is {coordinator!r}, but must be HOST:PORT with a port from 1 to 65535")


def is_first_process() -> bool:
    """Returns whether this is the process that writes files and logs progress."""
    return jax.process_index() == 0


def synchronize_processes(name: str) -> None:
    """Waits until every process has called this function with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast(tree: Any) -> Any:
    """Returns the arrays of the first process in every process, equal to the bit.

    Args:
        tree: NumPy arrays. The structure, shapes and types are the same in all processes.
    """
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    # JAX sums the arrays of the first process and zeros of the others: as floats, -0.0 would become 0.0.
    received = multihost_utils.broadcast_one_to_all([np.frombuffer(x.tobytes(), np.uint8) for x in leaves])
    arrays = [np.frombuffer(r.tobytes(), x.dtype).reshape(x.shape) for r, x in zip(received, leaves, strict=True)]
    return jax.tree.unflatten(structure, arrays)


def broadcast_text(text: str) -> str:
    """Returns the text of the first process in every process."""
    content = np.frombuffer(text.encode(), np.uint8)
    size = int(broadcast(np.int32(len(content))))
    return broadcast(content if is_first_process() else np.zeros(size, np.uint8)).tobytes().decode()


@contextlib.contextmanager
def end_together() -> Iterator[None]:
    """Ends all processes of a cluster when one of them raises an error.

    The others may be waiting for it in a collective operation, for which JAX allows minutes before it aborts them. They
    print its error as one line and exit with status 1. A process that finishes, or raises `Interrupted`, waits for the
    others. Use it around everything that the connected processes do; it may end the process.

    Raises:
        TrainingError: another process has died. JAX may abort this process instead, with status 134, if the other one
            was process 0, or if this one only waits for it.
    """
    if jax.process_count() == 1:
        yield
        return
    ending, finished = threading.Lock(), threading.Event()
    watcher = threading.Thread(target=_exit_with_others, args=(ending, finished), daemon=True)
    watcher.start()
    client, interrupted = _get_client(), None
    try:
        with _report_lost_connection():
            try:
                yield
            except Interrupted as stop:
                interrupted = stop
            client.wait_at_barrier("mobilenet-jax: end", _END_TIMEOUT * 1000)
    except BaseException as error:
        ending.acquire()  # kept until the process ends: it prints one error, its own or that of another process
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was first
            client.key_value_set(_ERROR_KEY, f"process {jax.process_index()} stopped: {get_first_line(error)}")
        _wait_for_the_others()
        atexit.register(os._exit, 1)  # called before JAX's own function, which waits for the other processes
        raise
    finished.set()
    watcher.join()
    jax.distributed.shutdown()
    if interrupted:
        raise interrupted


@contextlib.contextmanager
def _report_lost_connection() -> Iterator[None]:
    """Raises a TrainingError if an operation fails because another process has died."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not any(word in str(error) for word in _CONNECTION_ERRORS):
            raise
        raise TrainingError(
            f"the processes lost their connection ({get_first_line(error)}): start all of them again, the run "
            "continues after its last checkpoint"
        ) from error


def _exit_with_others(ending: threading.Lock, finished: threading.Event) -> None:
    """Waits for the error of another process, prints it and ends this process, unless an error of its own does."""
    client = _get_client()
    while not finished.wait(_POLL_INTERVAL):
        try:
            error = client.key_value_try_get(_ERROR_KEY)
        except jax.errors.JaxRuntimeError:  # there is none
            continue
        if ending.acquire(blocking=False):
            print(f"error: {' '.join(error.split())}", file=sys.stderr, flush=True)
            _wait_for_the_others()
            os._exit(1)
        return


def _wait_for_the_others() -> None:
    """Waits until all processes know that the run ends; the first one, which the others depend on, ends last."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # one of them has died
        _get_client().wait_at_barrier("mobilenet-jax: error", _ERROR_TIMEOUT * 1000)
    if is_first_process():
        time.sleep(2 * _POLL_INTERVAL)


def _get_client() -> Any:
    """Returns JAX's client of its key-value store, which has no public name; Orbax takes it from there, too."""
    return distributed.global_state.client
