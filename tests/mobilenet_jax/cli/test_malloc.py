import os

import pytest

from mobilenet_jax.cli.malloc import configure_malloc


def test_systems_without_glibc_do_not_restart_the_process(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    monkeypatch.setattr("os.execv", lambda *arguments: pytest.fail("restarted"))
    configure_malloc()
    assert "GLIBC_TUNABLES" not in os.environ
