import json
import shutil

import pytest

from mobilenet_jax.weights.save import write_weights
from tests.helpers.sensitive_weights import make_sensitive_weights

pytest.importorskip("litert_converter", reason="needs pip install -e '.[export]'")


def test_export_prints_the_verification(run, trained, tmp_path):
    status, out, err = run("export", trained, tmp_path / "a.tflite")
    assert (status, err) == (0, "")
    lines = dict(line.split("  ", 1) for line in out.splitlines()[1:])
    assert out.startswith(f"{tmp_path / 'a.tflite'}\n")
    assert lines["operations"].split()[0] == "31:"
    assert lines["size"].split() == ["0.86", "MB"]
    assert lines["time, 1 thread"].endswith("ms/image")


def test_errors_are_one_line_and_leave_nothing(run, workdir, tmp_path):
    (tmp_path / "out").mkdir()
    for arguments, message in (
        ([workdir, "a.pt"], "the name determines the format"),
        ([workdir, "a.onnx", "--quantize=int8"], "--quantize=int8 applies to .tflite files only"),
        ([tmp_path / "missing", "a.tflite"], "no such file or folder"),
        (
            [workdir, "a.tflite", "--quantize=int8", f"--data={tmp_path / 'missing'}"],
            "to use others, export the weights that",
        ),
    ):
        model, name, *more = arguments
        status, _, err = run("export", model, tmp_path / "out" / name, *more)
        assert status == 1
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
        assert list((tmp_path / "out").iterdir()) == []
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").mkdir()
    status, _, err = run("export", workdir, tmp_path / "out" / "a.tflite")
    assert status == 1
    assert err.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_names_of_classes_are_data(run, tmp_path):
    classes = ("<script>alert(1)</script>", "=1+1", "ü")
    write_weights(tmp_path / "w.safetensors", make_sensitive_weights("small", (32, 32), classes=classes))
    assert run("export", tmp_path / "w.safetensors", tmp_path / "a.mlir")[0] == 0
    assert tuple(json.loads((tmp_path / "a.mlir.json").read_text())["classes"]) == classes
