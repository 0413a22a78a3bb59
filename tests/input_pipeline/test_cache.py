import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import filelock
import numpy as np
import pytest
from PIL import Image

from input_pipeline.augment import Augmentation
from input_pipeline.batches import BatchOptions, make_eval_batches, make_train_batches
from input_pipeline.cache import open_cache
from input_pipeline.errors import DataError
from input_pipeline.preprocessing import Preprocessing
from input_pipeline.sources.isic import read_isic
from tests.helpers.cached_run import train_from_a_disk_cache
from tests.helpers.runs import ROOT

ARTICLE = Augmentation(30, 0.3, 0.3, 0.3, horizontal_flip=True)
SIZE = 32


@pytest.fixture
def examples(tiny_isic, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return read_isic(tiny_isic)


def _find_folder(tmp_path):
    [folder] = (tmp_path / "cache" / "mobilenet-jax" / "decoded").iterdir()
    return folder


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("augment_on", ["host", "device"])
def test_batches_from_a_cache_equal_those_from_files(examples, kind, augment_on):
    cache = open_cache(kind, examples.paths, SIZE)
    some = examples.take(np.arange(40, 0, -3))

    def make_batches(cache):
        options = BatchOptions(SIZE, (-1.0, 1.0), batch_size=4, seed=0, cache=cache)
        yield from make_train_batches(some, ARTICLE, options, first_step=2, last_step=8, augment_on=augment_on)
        yield from make_eval_batches(some, options)
        yield from make_eval_batches(some, options, augmentation=ARTICLE, epoch=1)

    for cached, read in zip(make_batches(cache), make_batches(None), strict=True):
        assert cached.keys() == read.keys()
        for key in read:
            np.testing.assert_array_equal(cached[key], read[key])
            assert cached[key].dtype == read[key].dtype


def test_no_cache_decodes_nothing(examples):
    assert open_cache("none", examples.paths, SIZE) is None


def test_the_size_is_logged_before_decoding_and_the_folder_when_the_cache_is_used_again(examples, tmp_path, caplog):
    caplog.set_level("INFO")
    open_cache("disk", examples.paths, SIZE)
    folder = _find_folder(tmp_path)
    assert caplog.messages == [f"cache: 42 images of 32 x 32 take 0.1 MB of disk in {folder}"]
    assert {p.name for p in folder.iterdir()} == {"images.npy", "index.json", "lock"}
    assert np.load(folder / "images.npy").shape == (42, SIZE, SIZE, 3)
    written = (folder / "images.npy").stat().st_mtime_ns
    caplog.clear()
    open_cache("disk", examples.paths, SIZE)
    assert caplog.messages == [f"cache: 42 images in {folder}"]
    assert (folder / "images.npy").stat().st_mtime_ns == written
    open_cache("disk", examples.paths, 40)
    assert len(list(folder.parent.iterdir())) == 2


def test_each_preprocessing_has_a_cache_and_the_default_that_of_earlier_versions(examples, tmp_path):
    open_cache("disk", examples.paths, SIZE)
    names = sorted(os.path.basename(path) for path in examples.paths)
    earlier = hashlib.sha256("\n".join([str(SIZE), *names]).encode()).hexdigest()[:16]
    assert _find_folder(tmp_path).name == earlier
    for resize, color_constancy in (("crop", "none"), ("stretch", "shades_of_gray"), ("crop", "shades_of_gray")):
        steps = Preprocessing(resize, color_constancy)
        images = open_cache("disk", examples.paths, SIZE, steps).images
        np.testing.assert_array_equal(images, open_cache("memory", examples.paths, SIZE, steps).images)
    assert len(list((tmp_path / "cache" / "mobilenet-jax" / "decoded").iterdir())) == 4


def _replace_source(examples, folder):
    shutil.copy(examples.paths[1], examples.paths[0])


def _touch_source(examples, folder):
    os.utime(examples.paths[0])


def _truncate_images(examples, folder):
    (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:5000])


def _empty_images(examples, folder):
    (folder / "images.npy").write_bytes(b"")


def _stop_before_the_index(examples, folder):
    (folder / "index.json").unlink()
    (folder / "images.npy.unfinished").write_bytes(b"half")  # of an earlier version
    (folder / ".images.npy.abc.unfinished").mkdir()
    (folder / ".images.npy.abc.unfinished" / "images.npy").write_bytes(b"half")


def _damage_index(examples, folder):
    (folder / "index.json").write_text("{")


def _set_older_format(examples, folder):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "format": 0}))


@pytest.mark.parametrize(
    "change",
    [
        _replace_source,
        _touch_source,
        _truncate_images,
        _empty_images,
        _stop_before_the_index,
        _damage_index,
        _set_older_format,
    ],
)
def test_an_invalid_cache_is_replaced(examples, tmp_path, change):
    open_cache("disk", examples.paths, SIZE)
    folder = _find_folder(tmp_path)
    (folder / "mark").touch()
    change(examples, folder)
    images = open_cache("disk", examples.paths, SIZE).images
    np.testing.assert_array_equal(images, open_cache("memory", examples.paths, SIZE).images)
    assert {p.name for p in folder.iterdir()} == {"images.npy", "index.json", "lock", "mark"}


def test_images_that_do_not_fit_are_refused_with_their_size(examples, monkeypatch, tmp_path):
    def report_free(amount):
        return type("Free", (), {"available": amount, "free": amount})

    monkeypatch.setattr("psutil.virtual_memory", lambda: report_free(100_000))
    with pytest.raises(DataError, match="data.cache=memory needs 0.1 MB, but 0.1 MB are free: free some space, or"):
        open_cache("memory", examples.paths, SIZE)
    monkeypatch.setattr("shutil.disk_usage", lambda _: report_free(100_000))
    with pytest.raises(DataError, match=r"data.cache=disk needs 0.1 MB in .*decoded.*, but 0.1 MB are free"):
        open_cache("disk", examples.paths, SIZE)
    assert {p.name for p in _find_folder(tmp_path).iterdir()} == {"lock"}


def test_two_processes_at_once_write_one_cache(examples, tmp_path):
    code = """
import logging, sys
from input_pipeline.cache import open_cache
from input_pipeline.sources.isic import read_isic
logging.basicConfig(level="INFO", stream=sys.stdout)
print(int(open_cache("disk", read_isic(sys.argv[1]).paths, 32).images.sum(dtype="int64")))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "isic")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    first, second = (process.communicate()[0].splitlines() for process in both)
    assert first[-1] == second[-1]
    assert sum("take" in line for line in first + second) == 1


def test_training_from_a_disk_cache_needs_no_tensorflow(tiny_isic, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train_from_a_disk_cache(str(tiny_isic), str(tmp_path / "with"))
    command = [sys.executable, "-m", "tests.helpers.cached_run", tiny_isic, tmp_path / "without"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # TensorFlow is blocked there
    first, second = (
        json.loads((tmp_path / workdir / "metrics.jsonl").read_text())["train_loss"] for workdir in ("with", "without")
    )
    assert first == second


def test_splits_of_the_same_images_share_a_cache(examples, tmp_path):
    rng = np.random.default_rng(0)
    first = open_cache("disk", examples.paths, SIZE)
    for _ in range(3):
        paths = rng.permutation(examples.paths)
        cache = open_cache("disk", paths, SIZE)
        np.testing.assert_array_equal(cache.images[cache.get_rows(paths)], first.images[first.get_rows(paths)])
    _find_folder(tmp_path)  # there is one


def test_class_folders_that_exchange_their_order_do_not_exchange_their_pixels(tmp_path, monkeypatch):
    """All files have the same names, sizes and times, as in an archive."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = {}
    for name, color in (("cat", 200), ("dog", 50)):
        (tmp_path / "data" / name).mkdir(parents=True)
        paths[name] = tmp_path / "data" / name / "1.bmp"
        Image.new("RGB", (SIZE, SIZE), (color,) * 3).save(paths[name])
        os.utime(paths[name], (0, 0))

    def read_colors(*paths):
        names = np.array([str(path) for path in paths])
        cache = open_cache("disk", names, SIZE)
        return cache.images[cache.get_rows(names)][:, 0, 0, 0].tolist()

    assert read_colors(paths["cat"], paths["dog"]) == [200, 50]
    renamed = paths["cat"].parent.rename(tmp_path / "data" / "zcat") / "1.bmp"
    assert read_colors(renamed, paths["dog"]) == [200, 50]
    assert read_colors(paths["dog"].parent / ".." / "zcat" / "1.bmp", paths["dog"]) == [200, 50]
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    assert read_colors(moved / "zcat" / "1.bmp", moved / "dog" / "1.bmp") == [200, 50]
    assert len(list((tmp_path / "cache" / "mobilenet-jax" / "decoded").iterdir())) == 2


def test_a_cache_that_no_run_has_opened_for_a_month_is_removed(examples, tmp_path, caplog):
    caplog.set_level("INFO")
    open_cache("disk", examples.paths, SIZE)
    old = _find_folder(tmp_path)
    os.utime(old, times=(time.time() - 31 * 86_400,) * 2)
    with filelock.FileLock(old / "lock"):
        open_cache("disk", examples.paths, 40)
    assert old.exists(), "another process is decoding its images again"
    open_cache("disk", examples.paths, 40)
    assert f"cache: removing {old}, which no run has opened for 30 days" in caplog.messages
    recent = _find_folder(tmp_path)
    os.utime(recent, times=(time.time() - 29 * 86_400,) * 2)
    open_cache("disk", examples.paths, 40)
    assert time.time() - recent.stat().st_mtime < 86_400
