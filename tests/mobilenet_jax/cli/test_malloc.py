import os

import pytest

from mobilenet_jax.cli.malloc import configure_malloc


@pytest.mark.parametrize("library", [("", ""), ("glibc", "2.34"), ("glibc", "2.4.1")])
def test_systems_without_a_recent_glibc_do_not_restart_the_process(monkeypatch, library):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr("platform.libc_ver", lambda: library)
    monkeypatch.setattr("os.execv", lambda *arguments: pytest.fail("restarted"))
    configure_malloc()
    assert "GLIBC_TUNABLES" not in os.environ


def test_the_process_is_restarted_once_even_if_the_tunables_get_lost(monkeypatch):
    for name in ("GLIBC_TUNABLES", "MOBILENET_JAX_RESTARTED"):
        monkeypatch.setenv(name, "")  # to be restored
        monkeypatch.delenv(name)
    restarts = []
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr("os.execv", lambda *arguments: restarts.append(os.environ["GLIBC_TUNABLES"]))
    configure_malloc()
    monkeypatch.delenv("GLIBC_TUNABLES")
    configure_malloc()
    assert len(restarts) == 1
    assert "hugetlb=1" in restarts[0]
