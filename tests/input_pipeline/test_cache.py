import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from input_pipeline.augment import Augmentation
from input_pipeline.batches import make_eval_batches, make_train_batches
from input_pipeline.cache import open_cache
from input_pipeline.errors import DataError
from input_pipeline.sources.isic import read_isic
from tests.helpers.runs import ROOT

ARTICLE = Augmentation(30, 0.3, 0.3, 0.3, horizontal_flip=True)
SIZE = 32


@pytest.fixture
def examples(tiny_isic, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return read_isic(tiny_isic)


def _folder(tmp_path):
    [folder] = (tmp_path / "cache" / "mobilenet-jax" / "decoded").iterdir()
    return folder


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("where", ["host", "device"])
def test_a_cache_changes_no_pixel(examples, kind, where):
    cache = open_cache(kind, examples.paths, SIZE)
    some = examples.take(np.arange(40, 0, -3))

    def batches(cache):
        options = {"image_size": SIZE, "scaling": (-1.0, 1.0), "batch_size": 4, "cache": cache}
        yield from make_train_batches(some, ARTICLE, **options, seed=0, first_step=2, last_step=8, where=where)
        yield from make_eval_batches(some, **options)
        yield from make_eval_batches(some, **options, augmentation=ARTICLE, epoch=1)

    for cached, read in zip(batches(cache), batches(None), strict=True):
        assert cached.keys() == read.keys()
        for key in read:
            np.testing.assert_array_equal(cached[key], read[key])
            assert cached[key].dtype == read[key].dtype


def test_none_decodes_nothing(examples):
    assert open_cache("none", examples.paths, SIZE) is None


def test_the_size_is_told_before_and_the_place_is_told_when_it_is_used_again(examples, tmp_path, capsys):
    open_cache("disk", examples.paths, SIZE)
    folder = _folder(tmp_path)
    assert capsys.readouterr().out == f"cache: 42 images of 32 x 32 take 0.1 MB of disk in {folder}\n"
    assert {p.name for p in folder.iterdir()} == {"images.npy", "index.json", "lock"}
    assert np.load(folder / "images.npy").shape == (42, SIZE, SIZE, 3)
    made = (folder / "images.npy").stat().st_mtime_ns
    open_cache("disk", examples.paths, SIZE)
    assert capsys.readouterr().out == f"cache: 42 images in {folder}\n"
    assert (folder / "images.npy").stat().st_mtime_ns == made
    open_cache("disk", examples.paths, 40)
    assert len(list(folder.parent.iterdir())) == 2


def _source_changed(examples, folder):
    shutil.copy(examples.paths[1], examples.paths[0])


def _source_touched(examples, folder):
    os.utime(examples.paths[0])


def _half_written(examples, folder):
    (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:5000])


def _stopped_before_the_index(examples, folder):
    (folder / "index.json").unlink()
    (folder / "images.npy.unfinished").write_bytes(b"half")


def _no_json(examples, folder):
    (folder / "index.json").write_text("{")


def _older_format(examples, folder):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "format": 0}))


@pytest.mark.parametrize(
    "damage", [_source_changed, _source_touched, _half_written, _stopped_before_the_index, _no_json, _older_format]
)
def test_a_cache_that_is_not_of_these_files_is_made_anew(examples, tmp_path, damage):
    open_cache("disk", examples.paths, SIZE)
    folder = _folder(tmp_path)
    (folder / "mark").touch()
    damage(examples, folder)
    found = open_cache("disk", examples.paths, SIZE).images
    np.testing.assert_array_equal(found, open_cache("memory", examples.paths, SIZE).images)
    assert {p.name for p in folder.iterdir()} == {"images.npy", "index.json", "lock", "mark"}


def test_what_does_not_fit_is_refused_with_its_size(examples, monkeypatch, tmp_path):
    def free(amount):
        return type("Free", (), {"available": amount, "free": amount})

    monkeypatch.setattr("psutil.virtual_memory", lambda: free(100_000))
    with pytest.raises(DataError, match="data.cache=memory needs 0.1 MB and 0.1 MB are free: make room, or"):
        open_cache("memory", examples.paths, SIZE)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free(100_000))
    with pytest.raises(DataError, match=r"data.cache=disk needs 0.1 MB in .*decoded.* and 0.1 MB are free"):
        open_cache("disk", examples.paths, SIZE)
    assert {p.name for p in _folder(tmp_path).iterdir()} == {"lock"}


def test_two_processes_at_once_make_one_cache(examples, tmp_path):
    code = (
        "import sys; from input_pipeline import open_cache; from input_pipeline.sources.isic import read_isic;"
        "print(int(open_cache('disk', read_isic(sys.argv[1]).paths, 32).images.sum(dtype='int64')))"
    )
    folder = str(tmp_path / "isic")
    command = [sys.executable, "-c", code, folder]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    first, second = (process.communicate()[0].splitlines() for process in both)
    assert first[-1] == second[-1]
    assert sum("take" in line for line in first + second) == 1
