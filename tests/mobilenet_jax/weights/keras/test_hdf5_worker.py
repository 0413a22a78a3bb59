import os
import signal
import sys

from mobilenet_jax.weights.keras.hdf5_worker import limit_resources


def test_systems_without_limits_read_without_limits(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delattr(signal, "setitimer")
    monkeypatch.setattr(os.path, "exists", lambda path: False)  # of /proc
    limit_resources(1000)
