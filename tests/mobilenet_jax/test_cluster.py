import pytest

from mobilenet_jax.cluster import _check_address, connect_processes
from mobilenet_jax.errors import ConfigError


@pytest.mark.parametrize("address", ["localhost", ":80", "localhost:", "localhost:0", "localhost:22x", "a:65536", ""])
def test_an_address_that_is_not_a_host_and_a_port_is_refused(address):
    with pytest.raises(ConfigError, match="must be HOST:PORT with a port from 1 to 65535"):
        connect_processes(address, 2, 0)


@pytest.mark.parametrize("address", ["localhost:1", "10.0.0.1:65535", "[::1]:5000", None])
def test_addresses_of_hosts_are_accepted(address):
    _check_address(address)
