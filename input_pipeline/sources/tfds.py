"""Creates the TFDS data set `isic2018_task3` from a folder, and reads it record by record, without unpacking it.

    DIR/isic2018_task3/1.0.0/isic2018_task3-train.array_record-00000-of-00001 ...

An image in it has an address instead of a path: the file, `#`, the number of the record, and the name of the image:

    DIR/isic2018_task3/1.0.0/isic2018_task3-train.array_record-00000-of-00001#17/ISIC_0024306.jpg

TensorFlow and TFDS are imported when they are first needed, since most runs do not need them here.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, Part
from input_pipeline.image_files import PREPARE_AGAIN, open_records
from input_pipeline.sources.isic import GROUND_TRUTH, INPUT


def prepare_tfds(raw: str | Path, data_dir: str | Path) -> None:
    """Writes the data set to `DATA_DIR/isic2018_task3/1.0.0`, in the format `array_record`, with TFDS's progress bars.

    TFDS gives the folder a temporary name until it is complete. Such folders that other processes left, or still write,
    are removed: run one preparation at a time.

    Args:
        raw: a folder in the archive's layout, see `isic.read_isic`.
        data_dir: TFDS's `data_dir`.

    Raises:
        DataError: the data set exists already, or there are faults in `raw`.
        OSError: the data set cannot be written.
    """
    import tensorflow_datasets as tfds

    from input_pipeline.sources.isic2018_task3 import Isic2018Task3, read_parts

    folder = _get_version_folder(data_dir)
    if folder.exists():
        raise DataError(f"{folder} exists: choose another name, or remove it")
    read_parts(Path(raw))  # raises before anything is written, and before TFDS would download the data instead
    for incomplete in folder.parent.glob(f"incomplete.*_{folder.name}"):
        shutil.rmtree(incomplete)
    builder = Isic2018Task3(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=raw))


def read_tfds(folder: str | Path, part: Part = "Training") -> Examples:
    """Reads labels, lesions and names of a prepared data set, without the images.

    Args:
        folder: TFDS's `data_dir`.
        part: the archive's set.

    Returns:
        The examples in the order of their names, as in the archive's tables. Their paths are addresses for
        `read_record`; the last component of a path is the file name of the image.

    Raises:
        DataError: the data set or the part does not exist, is damaged, or is in a format without random access.
    """
    from tensorflow_datasets.core.file_adapters import FileFormat

    from input_pipeline.sources.isic2018_task3 import PARTS, Isic2018Task3

    version = _get_version_folder(folder)
    if not (version / "dataset_info.json").exists():
        raise DataError(
            f"there is no TFDS data set {version}: create it with `mobilenet-jax prepare RAW {folder} --to tfds`"
        )
    info = Isic2018Task3(data_dir=folder).info
    if info.file_format != FileFormat.ARRAY_RECORD:
        raise DataError(
            f"{version} is in the format {info.file_format.value}; only array_record has random access: {PREPARE_AGAIN}"
        )
    split = PARTS[part]
    if split not in info.splits:
        raise DataError(
            f"{version} has no split {split!r}, only {', '.join(info.splits)}: {PREPARE_AGAIN}, from a folder that "
            f"holds {INPUT.format(part)} and {GROUND_TRUTH.format(part)}"
        )
    shards = zip(info.splits[split].filepaths, info.splits[split].shard_lengths, strict=True)
    rows = sorted(row for path, length in shards for row in _read_shard(version / path.name, length))
    names, addresses, labels, lesions = zip(*rows, strict=True)
    return Examples(
        paths=np.array(addresses),
        labels=np.array(labels, np.int32),
        lesions=np.array(lesions),
        rows=np.array([f"{version.parent.name}-{split}:{name}" for name in names]),
        class_names=tuple(info.features["label"].names),
    )


def _read_shard(shard: Path, length: int) -> Iterator[tuple[str, str, int, str]]:
    """Yields name, address, label and lesion of each example in a file."""
    from tensorflow.train import Example

    try:
        records = open_records(str(shard))
        if len(records) != length:
            raise DataError(f"{shard} holds {len(records)} records, not {length}: {PREPARE_AGAIN}")
        for number in range(length):
            feature = Example.FromString(records[number]).features.feature
            name = feature["image_id"].bytes_list.value[0].decode()
            lesion = feature["lesion_id"].bytes_list.value[0].decode()
            yield name, f"{shard}#{number}/{name}.jpg", feature["label"].int64_list.value[0], lesion
    except RuntimeError as error:
        raise DataError(f"{shard} is missing or damaged ({error}): {PREPARE_AGAIN}") from error


def _get_version_folder(data_dir: str | Path) -> Path:
    """Returns the folder that TFDS writes this version of the data set to."""
    from input_pipeline.sources.isic2018_task3 import Isic2018Task3

    return Path(data_dir) / Isic2018Task3.name / str(Isic2018Task3.VERSION)
