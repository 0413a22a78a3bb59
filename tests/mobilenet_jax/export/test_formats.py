import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mobilenet_jax.errors import ExportError
from mobilenet_jax.export import formats
from mobilenet_jax.export.formats import FORMATS, get_format


def test_the_ending_determines_the_format(monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: True)
    names = [get_format(Path(path)).name for path in ("a.tflite", "b.onnx", "c.mlir", "d")]
    assert names == ["LiteRT", "ONNX", "StableHLO", "TensorFlow SavedModel"]


def test_unknown_endings_are_refused():
    for name in ("a.pt", "a.TFLITE", ".tflite", "v1.2", "."):
        with pytest.raises(ExportError, match=r"the name determines the format: NAME\.tflite"):
            get_format(Path(name))


def test_all_distributions_of_a_runtime_are_named(monkeypatch):
    monkeypatch.setattr(formats, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu", "onnxruntime"]})
    monkeypatch.setattr(formats, "version", lambda name: "1.2")
    assert FORMATS[".onnx"].describe_runtime() == "onnxruntime 1.2, onnxruntime-gpu 1.2"


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: name != "onnx")
    with pytest.raises(ExportError, match=r"ONNX needs onnx, .* pip install -e '\.\[export\]' in the repository$"):
        get_format(Path("a.onnx"))


@pytest.mark.parametrize(
    ("name", "module"),
    [("a.tflite", "litert_converter.converter_api_ext"), pytest.param("a", "tensorflow", marks=pytest.mark.slow)],
)
def test_the_libraries_of_a_format_log_nothing(name, module):
    if not find_spec(module.split(".")[0]):
        pytest.skip(f"needs {module}")
    code = f"""
import jax
from pathlib import Path
from mobilenet_jax.export.formats import FORMATS
FORMATS[{Path(name).suffix!r}].load_module()
import {module}
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
