import numpy as np
import pytest
from PIL import Image

from tests.helpers.runs import ROOT


def _preview(run, data, out, *overrides):
    recipe = f"--config={ROOT}/configs/mobilenet.py:isic2018"
    return run("preview", out, recipe, f"--config.data.dir={data}", "--config.data.image_size=32", *overrides)


def _read(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), np.float32)


def test_each_class_is_drawn_as_the_first_eight_epochs_see_it(run, tiny_isic, tmp_path):
    out = tmp_path / "out.png"
    status, stdout, _ = _preview(run, tiny_isic, out)
    assert status == 0
    assert stdout.splitlines()[-1] == str(out)
    first = _read(out)
    assert first.shape[1] > 1000
    assert _preview(run, tiny_isic, out, "--config.augment.brightness=1")[0] == 0
    assert np.abs(_read(out) - first).mean() > 5
    assert _preview(run, tiny_isic, out)[0] == 0
    assert np.array_equal(_read(out), first)
    assert _preview(run, tiny_isic, out, "--config.seed=1")[0] == 0
    assert np.abs(_read(out) - first).mean() > 1


@pytest.mark.parametrize("name", ["out.jpg", "out", "none/out.png"])
def test_other_names_than_those_of_png_files_are_refused(run, tiny_isic, tmp_path, name):
    status, _, err = _preview(run, tiny_isic, tmp_path / name)
    assert status == 1
    assert err == f"error: {tmp_path / name} must be the name of a PNG file in an existing folder\n"


def test_unknown_keys_are_refused(run, tiny_isic, tmp_path):
    status, _, err = _preview(run, tiny_isic, tmp_path / "out.png", "--config.augment.rotatoin=3")
    assert status == 1
    assert err == "error: unknown key config.augment.rotatoin: did you mean config.augment.rotation?\n"
    assert not (tmp_path / "out.png").exists()
