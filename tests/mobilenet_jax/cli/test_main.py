import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenet_jax.cli.main import main, run_as_command
from tests.helpers.runs import ROOT


def _run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mobilenet-jax", *arguments])
    main()


def test_summary_prints_the_table(monkeypatch, capsys):
    _run(monkeypatch, "summary")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "Total params: 3,228,864",
        "Trainable params: 3,206,976",
        "Non-trainable params: 21,888",
    ]


def test_summary_prints_json_for_other_sizes(monkeypatch, capsys):
    _run(monkeypatch, "summary", "--alpha=0.25", "--image-size=65", "--include-top", "--format=json")
    table = json.loads(capsys.readouterr().out)
    assert table["layers"][1] == {
        "name": "conv1_pad", "type": "ZeroPadding2D", "shape": [None, 67, 67, 3], "params": 0,
    }  # fmt: skip
    assert table["layers"][-1]["name"] == "conv_preds"


@pytest.mark.parametrize(
    ("argument", "message"), [("--alpha=0.3", "invalid choice: 0.3"), ("--image-size=16", "16 is less than 32")]
)
def test_wrong_arguments_are_named(monkeypatch, capsys, argument, message):
    with pytest.raises(SystemExit) as end:
        _run(monkeypatch, "summary", argument)
    assert end.value.code != 0
    assert message in capsys.readouterr().err


def test_the_installed_command_works():
    command = Path(sys.executable).with_name("mobilenet-jax")
    if not command.exists():
        pytest.skip("the package is not installed in this environment: pip install -e .")
    assert subprocess.run([command, "summary"], capture_output=True).returncode == 0


def test_errors_are_one_line_and_debug_shows_where(capsys):
    def fail():
        raise ValueError("two\nlines")

    with pytest.raises(SystemExit) as end:
        run_as_command(fail, (ValueError,), debug=False)
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: two lines\n"
    with pytest.raises(ValueError, match="two"):
        run_as_command(fail, (ValueError,), debug=True)


def test_a_bug_is_not_hidden():
    with pytest.raises(ValueError, match="invalid literal"):
        run_as_command(lambda: int("x"), (OSError,), debug=False)


def test_preview_draws_each_class_as_the_first_eight_epochs_see_it(monkeypatch, tiny_isic, tmp_path, capsys):
    def preview(*overrides):
        recipe = f"--config={ROOT}/configs/mobilenet.py:isic2018"
        data = [f"--config.data.dir={tiny_isic}", "--config.data.image_size=32"]
        _run(monkeypatch, "preview", str(tmp_path / "out.png"), recipe, *data, *overrides)
        with Image.open(tmp_path / "out.png") as picture:
            return np.asarray(picture.convert("RGB"), np.float32)

    shown = preview()
    assert shown.shape[1] > 1000
    assert np.abs(preview("--config.augment.brightness=1") - shown).mean() > 5
    assert np.array_equal(preview(), shown)
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out.png")
    with pytest.raises(SystemExit):
        preview("--config.augment.rotatoin=3")
    assert capsys.readouterr().err == (
        "error: unknown key config.augment.rotatoin: did you mean config.augment.rotation?\n"
    )
