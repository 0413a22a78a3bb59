import json
import os
import signal
import sys

import h5py
import numpy as np
import pytest

from mobilenet_jax.weights.keras import hdf5_worker
from mobilenet_jax.weights.keras.hdf5_worker import limit_resources


def test_systems_without_limits_read_without_limits(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delattr(signal, "setitimer")
    monkeypatch.setattr(os.path, "exists", lambda path: False)  # of /proc
    limit_resources(1000)


def test_positions_are_read_without_opening_links(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["weight_names"] = ["a/kernel:0"]
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["dense/dense/kernel:0"] = np.zeros(1)
        file["dense"].attrs["weight_names"] = ["dense/kernel:0"]
        file["optimizer_weights/link"] = h5py.ExternalLink("other.h5", "/")
        file.attrs["layer_names"] = ["optimizer_weights/link", "dense", "missing"]
        datasets = hdf5_worker.find_datasets(file)
        assert hdf5_worker.get_positions(file, datasets) == {"dense/dense/kernel:0": (1, 0)}


def test_a_long_attribute_is_refused_and_not_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_worker, "MAX_TEXT", 20)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["backend"] = "jax"
        file.attrs["model_config"] = np.bytes_(json.dumps({"class_name": "Functional"}))
        assert hdf5_worker.get_text_attributes(file, "backend", "keras_version") == {"backend": "jax"}
        with pytest.raises(hdf5_worker.RefusedError, match="its attribute model_config has more than 20 bytes"):
            hdf5_worker.get_text_attributes(file, "model_config")
