import filecmp
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from input_pipeline.sources.isic import CLASS_NAMES, read_isic
from input_pipeline.sources.lesion_drawing import draw_lesion
from input_pipeline.sources.sample import prepare_sample, write_sample
from input_pipeline.validation import validate_images
from tests.helpers.runs import ROOT


@pytest.mark.slow
def test_the_sample_is_a_valid_data_set_with_imbalanced_classes_and_several_images_per_lesion():
    sample = read_isic(prepare_sample())
    validate_images(sample)
    counts = np.bincount(sample.labels, minlength=7)
    assert counts.argmax() == CLASS_NAMES.index("NV")
    assert counts.max() > 3 * counts.min() > 0
    assert 600 < len(sample) < 1000
    _, images = np.unique(sample.lesions, return_counts=True)
    assert images.max() == 3


def test_the_sample_is_the_same_to_the_byte_when_it_is_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr("input_pipeline.sources.sample._LESIONS", {name: 2 for name in CLASS_NAMES})
    for name in ("a", "b"):
        write_sample(tmp_path / name)
    files = [os.path.relpath(os.path.join(d, f), tmp_path / "a") for d, _, fs in os.walk(tmp_path / "a") for f in fs]
    assert len(files) > 14
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", files, shallow=False) == (files, [], [])


def test_views_of_a_lesion_differ_less_than_lesions_do():
    views = [np.asarray(draw_lesion("BKL", 3, v), float).mean((0, 1)) for v in range(2)]
    others = [np.asarray(draw_lesion("MEL", i, 0), float).mean((0, 1)) for i in range(5)]
    assert not np.array_equal(*views)
    assert np.abs(views[0] - views[1]).mean() < np.mean([np.abs(views[0] - o).mean() for o in others])


def test_the_sample_is_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("input_pipeline.sources.sample._LESIONS", {name: 1 for name in CLASS_NAMES})
    folder = prepare_sample()
    monkeypatch.setattr("input_pipeline.sources.sample.write_sample", lambda folder: pytest.fail("drawn again"))
    assert prepare_sample() == folder
    assert len(read_isic(folder)) >= len(CLASS_NAMES)


def test_an_interrupted_drawing_leaves_nothing_under_the_final_name(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(folder):
        folder.mkdir()
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("input_pipeline.sources.sample.write_sample", fail)
    with pytest.raises(OSError, match="No space"):
        prepare_sample()
    assert [path.name for path in (tmp_path / "mobilenet-jax").iterdir()] == ["sample-v1.lock"]


def test_of_processes_that_need_the_sample_at_once_one_draws_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    drawn = []

    def draw(folder):
        drawn.append(folder)
        folder.mkdir()
        for i in range(100):
            (folder / f"{i}.jpg").write_bytes(b"drawing")
        time.sleep(0.2)

    monkeypatch.setattr("input_pipeline.sources.sample.write_sample", draw)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: prepare_sample(), range(4)))
    assert len(drawn) == 1
    assert [len(list(folder.iterdir())) for folder in folders] == [100] * 4


def test_the_picture_in_the_readme_shows_the_sample_as_it_is_drawn(tmp_path):
    command = [sys.executable, ROOT / "docs" / "draw_sample.py", tmp_path / "sample.jpg"]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    with Image.open(ROOT / "docs" / "sample.jpg") as committed, Image.open(tmp_path / "sample.jpg") as drawn:
        assert drawn.size == committed.size == (56 + 8 * 132, 4 + 7 * 100)
        assert np.abs(np.asarray(drawn, int) - np.asarray(committed, int)).mean() < 1
