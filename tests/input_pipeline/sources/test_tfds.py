import functools
import http.server
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from input_pipeline.errors import DataError
from input_pipeline.image_files import is_address, read_record
from input_pipeline.sources import isic2018_task3
from input_pipeline.sources.folders import read_folders, write_folders
from input_pipeline.sources.isic import GROUND_TRUTH, GROUPINGS, INPUT, read_isic
from input_pipeline.sources.isic2018_task3 import Isic2018Task3
from input_pipeline.sources.tfds import prepare_tfds, read_tfds
from tests.helpers.datasets import add_small_official_sets, write_isic

PARTS = {"Training": 42, "Validation": 7, "Test": 7}
SPLITS = {"train": 42, "validation": 7, "test": 7}
NAMES = [name.format(part) for part in PARTS for name in (INPUT, GROUND_TRUTH)]
UNPACKED = {name: f"unpacked/{name}" for name in [*NAMES, GROUPINGS]}
SHARD = "isic2018_task3/1.0.0/isic2018_task3-train.array_record-00000-of-00001"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Makes downloads by mistake fail at once."""
    monkeypatch.setattr(isic2018_task3, "_DOWNLOADS", "nowhere:")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return add_small_official_sets(write_isic(tmp_path_factory.mktemp("raw") / "archive"))


@pytest.fixture(scope="module")
def prepared(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare_tfds(archive, folder)
    return folder


def _manual(folder):
    return {"download_config": tfds.download.DownloadConfig(manual_dir=folder)}


class TestFromFolder(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Isic2018Task3
    SPLITS = SPLITS

    @classmethod
    def setUpClass(cls):
        folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.EXAMPLE_DIR = add_small_official_sets(write_isic(folder / "archive"))
        super().setUpClass()


class TestDownloaded(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Isic2018Task3
    SPLITS = SPLITS
    SKIP_CHECKSUMS = True  # the archive publishes none
    DL_EXTRACT_RESULT = UNPACKED

    @classmethod
    def setUpClass(cls):
        cls.EXAMPLE_DIR = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        archive = add_small_official_sets(write_isic(cls.EXAMPLE_DIR / "archive"))
        for name in NAMES:
            shutil.move(archive / name, cls.EXAMPLE_DIR / "unpacked" / name / name)
        shutil.move(archive / GROUPINGS, cls.EXAMPLE_DIR / "unpacked" / GROUPINGS)
        super().setUpClass()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_zips_are_downloaded_and_unpacked(archive, tmp_path, monkeypatch):
    for name in NAMES:
        shutil.make_archive(tmp_path / "2018" / name, "zip", archive, name)
    shutil.copy(archive / GROUPINGS, tmp_path / "2018")
    handler = functools.partial(_QuietHandler, directory=tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(isic2018_task3, "_DOWNLOADS", f"http://127.0.0.1:{server.server_port}/2018")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            Isic2018Task3(data_dir=tmp_path / "tfds", file_format="array_record").download_and_prepare()
        finally:
            server.shutdown()
            thread.join()
    for part in PARTS:
        _assert_same(read_tfds(tmp_path / "tfds", part), read_isic(archive, part))


def test_tfds_load_finds_the_data_set(archive, tmp_path):
    dataset = tfds.load("isic2018_task3", split="test", data_dir=tmp_path, download_and_prepare_kwargs=_manual(archive))
    rows = sorted((row["image_id"].decode(), int(row["label"]), row["image"].shape) for row in tfds.as_numpy(dataset))
    assert rows == [(f"ISIC_{2000 + label:07d}", label, (40, 40, 3)) for label in range(7)]
    with pytest.raises(
        DataError, match=r"1\.0\.0 is in the format tfrecord; only array_record .* prepare RAW DST --to"
    ):
        read_tfds(tmp_path)


def _assert_same(records, files):
    """Asserts that labels, lesions, names and the bytes of the images are equal."""
    np.testing.assert_array_equal(records.labels, files.labels)
    np.testing.assert_array_equal(records.lesions, files.lesions)
    assert records.class_names == files.class_names
    assert records.compute_fingerprint() == files.compute_fingerprint()
    for address, path in zip(records.paths, files.paths, strict=True):
        assert Path(address).name == Path(path).name
        assert is_address(address)
        assert not is_address(path)
        assert read_record(address) == Path(path).read_bytes()


@pytest.mark.parametrize("part", PARTS)
def test_records_equal_the_files(prepared, archive, part):
    examples = read_tfds(prepared, part)
    assert len(examples) == PARTS[part]
    _assert_same(examples, read_isic(archive, part))


def test_records_become_the_files_of_class_folders(prepared, archive, tmp_path):
    write_folders(read_tfds(prepared), tmp_path / "folders")
    copies, files = read_folders(tmp_path / "folders"), read_isic(archive)
    paths = {Path(path).name: Path(path) for path in files.paths}
    assert sorted(Path(path).name for path in copies.paths) == sorted(paths)
    assert all(Path(path).read_bytes() == paths[Path(path).name].read_bytes() for path in copies.paths)


def test_real_images_keep_their_bytes(real_data, tmp_path):
    prepare_tfds(real_data, tmp_path)
    _assert_same(read_tfds(tmp_path), read_isic(real_data))


def test_several_shards_are_read_as_one_data_set(archive, tmp_path):
    config = tfds.download.DownloadConfig(manual_dir=archive, num_shards=3)
    Isic2018Task3(data_dir=tmp_path, file_format="array_record").download_and_prepare(download_config=config)
    examples = read_tfds(tmp_path)
    assert len({path.partition("#")[0] for path in examples.paths}) == 3
    _assert_same(examples, read_isic(archive))


def test_many_threads_can_read_at_the_same_time(prepared, archive):
    records, files = read_tfds(prepared), read_isic(archive)
    order = np.random.default_rng(0).integers(len(records), size=2000)
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(read_record, records.paths[order]))
    assert images == [Path(path).read_bytes() for path in files.paths[order]]


def test_folders_without_the_data_set_are_refused(prepared, tiny_isic, tmp_path):
    for folder in (tmp_path / "nowhere", tiny_isic, prepared / "isic2018_task3"):
        with pytest.raises(
            DataError, match=r"no TFDS data set .*1\.0\.0: create it with `mobilenet-jax prepare RAW .* --to tfds`"
        ):
            read_tfds(folder)


def test_a_part_that_does_not_exist_is_refused(tiny_isic, tmp_path):
    prepare_tfds(tiny_isic, tmp_path)
    with pytest.raises(DataError, match=r"has no split 'test', only train: .*ISIC2018_Task3_Test_GroundTruth"):
        read_tfds(tmp_path, "Test")


def _truncate(shard):
    shard.write_bytes(shard.read_bytes()[:-1000])


def _flip_a_bit(shard):
    data = bytearray(shard.read_bytes())
    data[len(data) // 4] ^= 1
    shard.write_bytes(data)


def _replace_with_test(shard):
    shutil.copy(shard.with_name(shard.name.replace("train", "test")), shard)


DAMAGES = [
    (Path.unlink, r"is missing or damaged \(open\(\) failed"),
    (_truncate, "is missing or damaged"),
    (_flip_a_bit, r"is missing or damaged .*hash mismatch"),
    (_replace_with_test, "holds 7 records, not 42"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[m for _, m in DAMAGES])
def test_damaged_shards_are_refused(prepared, tmp_path, damage, message):
    shutil.copytree(prepared, tmp_path / "tfds")
    damage(tmp_path / "tfds" / SHARD)
    with pytest.raises(DataError, match=f"00000-of-00001 {message}.*create it again"):
        read_tfds(tmp_path / "tfds")


def test_a_missing_record_is_reported_with_its_address(prepared, tmp_path):
    shard = prepared / SHARD
    for address in (f"{tmp_path / shard.name}#0/ISIC_0000000.jpg", f"{shard}#42/ISIC_0000042.jpg"):
        with pytest.raises(DataError, match=r"#\d+/ISIC_00000\d+\.jpg cannot be read"):
            read_record(address)


def test_an_existing_data_set_is_not_overwritten_and_a_faulty_folder_is_refused(prepared, tiny_isic, tmp_path):
    with pytest.raises(DataError, match=r"1\.0\.0 exists: choose another name, or remove it"):
        prepare_tfds(tiny_isic, prepared)
    (tiny_isic / NAMES[0] / "ISIC_0000004.jpg").unlink()
    for raw, message in ((tiny_isic, r"csv:6: there is no"), (tmp_path / "nowhere", "no such data folder")):
        with pytest.raises(DataError, match=message):
            prepare_tfds(raw, tmp_path / "tfds")
    assert not (tmp_path / "tfds").exists()


def test_an_interrupted_preparation_leaves_no_data_set(tiny_isic, tmp_path, monkeypatch):
    def generate(self, examples):
        yield from list(generate_all(self, examples))[:9]
        raise KeyboardInterrupt

    generate_all = Isic2018Task3._generate_examples
    monkeypatch.setattr(Isic2018Task3, "_generate_examples", generate)
    with pytest.raises(KeyboardInterrupt):
        prepare_tfds(tiny_isic, tmp_path)
    assert not list((tmp_path / "isic2018_task3").iterdir())

    monkeypatch.undo()
    (tmp_path / "isic2018_task3" / "incomplete.ABC123_1.0.0").mkdir()  # left by a process that was killed
    prepare_tfds(tiny_isic, tmp_path)
    assert [path.name for path in (tmp_path / "isic2018_task3").iterdir()] == ["1.0.0"]
    assert len(read_tfds(tmp_path)) == 42
