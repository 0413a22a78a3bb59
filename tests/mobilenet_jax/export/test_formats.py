from pathlib import Path

import pytest

from mobilenet_jax.errors import ExportError
from mobilenet_jax.export import formats
from mobilenet_jax.export.formats import get_format


def test_the_ending_determines_the_format(monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: True)
    names = [get_format(Path(path)).name for path in ("a.tflite", "b.onnx", "c.mlir", "d")]
    assert names == ["LiteRT", "ONNX", "StableHLO", "TensorFlow SavedModel"]


def test_unknown_endings_are_refused():
    with pytest.raises(ExportError, match=r"a\.pt: the name determines the format: NAME\.tflite"):
        get_format(Path("a.pt"))


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: name != "onnx")
    with pytest.raises(ExportError, match=r"ONNX needs onnx, .* pip install 'mobilenet-jax\[export\]'"):
        get_format(Path("a.onnx"))
