import jax
import pytest

from mobilenet_jax.cluster import connect_processes
from mobilenet_jax.errors import ConfigError


@pytest.mark.parametrize("address", ["localhost", ":80", "localhost:", "localhost:0", "localhost:22x", "a:65536", ""])
def test_an_address_that_is_not_a_host_and_a_port_is_refused(address):
    with pytest.raises(ConfigError, match="must be HOST:PORT with a port from 1 to 65535"):
        connect_processes(address, 2, 0)


@pytest.mark.parametrize("address", ["localhost:1", "10.0.0.1:65535", "[::1]:5000"])
def test_addresses_of_hosts_are_passed_to_jax(address, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: calls.append(args))
    connect_processes(address, 2, 1)
    assert calls == [(address, 2, 1)]


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"])
def test_the_only_process_of_a_job_does_not_connect(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: pytest.fail("connected"))
    connect_processes(None, None, None)


def test_several_processes_in_a_job_of_one_task_connect(monkeypatch):
    """Runs `mpirun` in a job of Slurm."""
    calls = []
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: calls.append(args))
    connect_processes(None, None, None)
    assert calls == [(None, None, None)]


def test_processes_that_open_mpi_5_starts_need_addresses(monkeypatch):
    def fail(*args, **options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    connect_processes(None, None, None)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="Open MPI 5 does not provide the address of process 0"):
        connect_processes(None, None, None)


def test_a_failed_connection_is_an_error_of_one_line(monkeypatch):
    def fail(*args, **options):
        raise jax.errors.JaxRuntimeError("UNKNOWN: Failed to start RPC server\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ConfigError, match="cannot connect to localhost:80: UNKNOWN: Failed to start RPC server$"):
        connect_processes("localhost:80", 2, 0)
