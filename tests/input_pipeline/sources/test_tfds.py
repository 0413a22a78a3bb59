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
from input_pipeline.sources.isic import CLASS_NAMES, read_isic
from input_pipeline.sources.isic2018_task3 import Isic2018Task3
from input_pipeline.sources.tfds import prepare_tfds, read_tfds
from tests.helpers.datasets import write_isic

PARTS = {"Training": 42, "Validation": 7, "Test": 7}
SPLITS = {"train": 42, "validation": 7, "test": 7}
NAMES = [f"ISIC2018_Task3_{part}_{kind}" for part in PARTS for kind in ("Input", "GroundTruth")]
GROUPINGS = "ISIC2018_Task3_Training_LesionGroupings.csv"
UNPACKED = {name: f"unpacked/{name}" for name in [*NAMES, GROUPINGS]}
SHARD = "isic2018_task3/1.0.0/isic2018_task3-train.array_record-00000-of-00001"


def _write_archive(folder):
    """The archive's three parts: `write_isic`'s for training, one image a class of it, renamed, in the others."""
    training = read_isic(write_isic(folder))
    for part, first in (("Validation", 1000), ("Test", 2000)):
        images, truth = (folder / f"ISIC2018_Task3_{part}_{kind}" for kind in ("Input", "GroundTruth"))
        images.mkdir()
        truth.mkdir()
        rows = [["image", *CLASS_NAMES]]
        for label in range(7):
            name = f"ISIC_{first + label:07d}"
            shutil.copy(training.paths[6 * label], images / f"{name}.jpg")
            rows.append([name, *(str(float(i == label)) for i in range(7))])
        (truth / f"{truth.name}.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing is downloaded by mistake: such an address fails at once."""
    monkeypatch.setattr(isic2018_task3, "_DOWNLOADS", "nowhere:")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return _write_archive(tmp_path_factory.mktemp("raw") / "archive")


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
        cls.EXAMPLE_DIR = _write_archive(Path(cls.enterClassContext(tempfile.TemporaryDirectory())) / "archive")
        super().setUpClass()


class TestDownloaded(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Isic2018Task3
    SPLITS = SPLITS
    SKIP_CHECKSUMS = True  # the archive publishes none
    DL_EXTRACT_RESULT = UNPACKED

    @classmethod
    def setUpClass(cls):
        cls.EXAMPLE_DIR = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        archive = _write_archive(cls.EXAMPLE_DIR / "archive")
        for name in NAMES:
            shutil.move(archive / name, cls.EXAMPLE_DIR / "unpacked" / name / name)
        shutil.move(archive / GROUPINGS, cls.EXAMPLE_DIR / "unpacked" / GROUPINGS)
        super().setUpClass()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_zips_are_downloaded_and_unpacked(archive, tmp_path, monkeypatch):
    for name in NAMES:
        shutil.make_archive(tmp_path / "2018" / name, "zip", archive, name)
    shutil.copy(archive / GROUPINGS, tmp_path / "2018")
    handler = functools.partial(_Quiet, directory=tmp_path)
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


def test_tfds_load_finds_it(archive, tmp_path):
    dataset = tfds.load("isic2018_task3", split="test", data_dir=tmp_path, download_and_prepare_kwargs=_manual(archive))
    rows = sorted((row["image_id"].decode(), int(row["label"]), row["image"].shape) for row in tfds.as_numpy(dataset))
    assert rows == [(f"ISIC_{2000 + label:07d}", label, (40, 40, 3)) for label in range(7)]
    with pytest.raises(
        DataError, match=r"1\.0\.0 is in the format tfrecord; only array_record .* prepare RAW DST --to"
    ):
        read_tfds(tmp_path)


def _assert_same(records, files):
    """All that is known of the examples is the same, and the images are to the byte."""
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
def test_records_are_what_the_files_were(prepared, archive, part):
    examples = read_tfds(prepared, part)
    assert len(examples) == PARTS[part]
    _assert_same(examples, read_isic(archive, part))


def test_real_images_keep_their_bytes(real_data, tmp_path):
    prepare_tfds(real_data, tmp_path)
    _assert_same(read_tfds(tmp_path), read_isic(real_data))


def test_several_files(archive, tmp_path):
    config = tfds.download.DownloadConfig(manual_dir=archive, num_shards=3)
    Isic2018Task3(data_dir=tmp_path, file_format="array_record").download_and_prepare(download_config=config)
    examples = read_tfds(tmp_path)
    assert len({path.partition("#")[0] for path in examples.paths}) == 3
    _assert_same(examples, read_isic(archive))


def test_threads_read_at_a_time(prepared, archive):
    records, files = read_tfds(prepared), read_isic(archive)
    order = np.random.default_rng(0).integers(len(records), size=2000)
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(read_record, records.paths[order]))
    assert images == [Path(path).read_bytes() for path in files.paths[order]]


def test_folders_without_the_data_set_are_refused(prepared, tiny_isic, tmp_path):
    for folder in (tmp_path / "nowhere", tiny_isic, prepared / "isic2018_task3"):
        with pytest.raises(DataError, match=r"no TFDS data set .*1\.0\.0: `mobilenet-jax prepare RAW .* --to tfds`"):
            read_tfds(folder)


def test_a_part_that_is_not_there_is_refused(tiny_isic, tmp_path):
    prepare_tfds(tiny_isic, tmp_path)
    with pytest.raises(DataError, match=r"has no split 'test', only train: .*ISIC2018_Task3_Test_GroundTruth"):
        read_tfds(tmp_path, "Test")


def _cut(shard):
    shard.write_bytes(shard.read_bytes()[:-1000])


def _turn_a_bit(shard):
    data = bytearray(shard.read_bytes())
    data[len(data) // 4] ^= 1
    shard.write_bytes(data)


def _exchange(shard):
    shutil.copy(shard.with_name(shard.name.replace("train", "test")), shard)


DAMAGES = [
    (Path.unlink, r"is missing or damaged \(open\(\) failed"),
    (_cut, "is missing or damaged"),
    (_turn_a_bit, r"is missing or damaged .*hash mismatch"),
    (_exchange, "holds 7 records, not 42"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[m for _, m in DAMAGES])
def test_damaged_files_are_refused(prepared, tmp_path, damage, message):
    shutil.copytree(prepared, tmp_path / "tfds")
    damage(tmp_path / "tfds" / SHARD)
    with pytest.raises(DataError, match=f"00000-of-00001 {message}.*make it anew"):
        read_tfds(tmp_path / "tfds")


def test_a_record_that_is_gone_is_named(prepared, tmp_path):
    shard = prepared / SHARD
    for address in (f"{tmp_path / shard.name}#0/ISIC_0000000.jpg", f"{shard}#42/ISIC_0000042.jpg"):
        with pytest.raises(DataError, match=r"#\d+/ISIC_00000\d+\.jpg cannot be read"):
            read_record(address)


def test_nothing_is_written_over_a_data_set_or_from_a_faulty_folder(prepared, tiny_isic, tmp_path):
    with pytest.raises(DataError, match=r"1\.0\.0 exists: choose another name, or remove it"):
        prepare_tfds(tiny_isic, prepared)
    (tiny_isic / NAMES[0] / "ISIC_0000004.jpg").unlink()
    for raw, message in ((tiny_isic, r"csv:6: there is no"), (tmp_path / "nowhere", "no such data folder")):
        with pytest.raises(DataError, match=message):
            prepare_tfds(raw, tmp_path / "tfds")
    assert not (tmp_path / "tfds").exists()


def test_a_data_set_is_whole_or_not_there(tiny_isic, tmp_path, monkeypatch):
    def generate(self, examples):
        yield from list(whole(self, examples))[:9]
        raise KeyboardInterrupt

    whole = Isic2018Task3._generate_examples
    monkeypatch.setattr(Isic2018Task3, "_generate_examples", generate)
    with pytest.raises(KeyboardInterrupt):
        prepare_tfds(tiny_isic, tmp_path)
    assert not list((tmp_path / "isic2018_task3").iterdir())

    monkeypatch.undo()
    (tmp_path / "isic2018_task3" / "incomplete.ABC123_1.0.0").mkdir()  # as a run leaves it that was killed
    prepare_tfds(tiny_isic, tmp_path)
    assert [path.name for path in (tmp_path / "isic2018_task3").iterdir()] == ["1.0.0"]
    assert len(read_tfds(tmp_path)) == 42
