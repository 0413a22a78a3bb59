"""`.keras` archives."""

import os
import struct
import zipfile

from tests.helpers.hostile.descriptions import describe_model
from tests.helpers.hostile.registry import Cases
from tests.helpers.weights_files import write_archive, write_keras_3

CASES = Cases()


def _write_archive(path, members=None):
    write_archive(path, write_keras_3(path.with_suffix(".part")), members)


@CASES.add("would leave the folder", ".keras")
def a_member_that_leaves_the_folder(path):
    _write_archive(path, {"../evil.txt": "evil"})


@CASES.add("would leave the folder", ".keras")
def a_member_with_an_absolute_path(path):
    _write_archive(path, {"/tmp/evil": "evil"})


@CASES.add("to 314,572,800 bytes", ".keras")
def a_member_that_expands(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("model.weights.h5", bytes(300 << 20))


@CASES.add("damaged", ".keras")
def a_member_that_expands_and_claims_not_to(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("model.weights.h5", bytes(300 << 20))
    content = path.read_bytes().replace(struct.pack("<I", 300 << 20), struct.pack("<I", 1000))
    path.write_bytes(content)


@CASES.add("a compression that Keras does not use", ".keras")
def a_member_of_another_compression(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("model.weights.h5", bytes(30 << 20))
    content = path.read_bytes().replace(struct.pack("<I", 30 << 20), struct.pack("<I", 1000))
    path.write_bytes(content)


@CASES.add("channels first", ".keras")
def an_archive_that_works_on_channels_first(path):
    description = describe_model({"class_name": "Conv2D", "data_format": "channels_first"})
    _write_archive(path, {"config.json": description})


@CASES.add("an archive that Keras did not write", ".keras")
def an_archive_of_endless_members(path):
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(2000):
            archive.writestr(f"{i}", "")


@CASES.add("damaged", ".keras")
def a_truncated_archive(path):
    _write_archive(path)
    os.truncate(path, path.stat().st_size // 2)


@CASES.add("damaged, or not weights (", ".keras")
def an_archive_with_a_description_that_is_not_text(path):
    _write_archive(path, {"config.json": b"\xff\xfe\xfd"})
