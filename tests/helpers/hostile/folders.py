"""Orbax folders and workdirs."""

import os

import numpy as np
import tensorstore as ts

from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.save import write_weights
from mobilenet_jax.weights.weights import Weights
from tests.helpers.hostile.registry import Case, Cases
from tests.helpers.weights_files import BACKBONE, make_random_tensors

CASES = Cases()


def _add_orbax(message):
    """Adds the decorated function, which changes an intact Orbax folder."""

    def decorate(function):
        def write(path):
            write_weights(path, Weights("", "", BACKBONE, make_random_tensors(), Metadata()))
            function(path)

        CASES[function.__name__] = Case(write, message)
        return function

    return decorate


@CASES.add("a folder, but neither", "")
def a_folder(path):
    path.mkdir()


@CASES.add("damaged, or not weights (metadata/metadata is missing)", "")
def a_folder_with_the_names_of_weights(path):
    (path / "variables").mkdir(parents=True)
    (path / "metadata").mkdir()


@_add_orbax("variables/_METADATA in it is a link or a special file")
def a_folder_with_a_link(path):
    (path / "variables" / "_METADATA").unlink()
    (path / "variables" / "_METADATA").symlink_to("/etc/hostname")


@_add_orbax("metadata/metadata in it is a link or a special file")
def a_folder_with_a_pipe(path):
    (path / "metadata" / "metadata").unlink()
    os.mkfifo(path / "metadata" / "metadata")


@_add_orbax("damaged, or not weights (")
def a_folder_with_a_file_missing(path):
    for file in (path / "variables").rglob("d/*"):
        file.unlink()


@_add_orbax("damaged, or not weights (")
def a_folder_with_a_file_cut_short(path):
    for file in (path / "variables").rglob("d/*"):
        os.truncate(file, file.stat().st_size // 2)


@_add_orbax("is cut into chunks of (250000000,)")
def a_folder_with_a_chunk_of_a_gigabyte(path):
    _write_scales(path, chunk=250_000_000, compressor="zstd")


@_add_orbax("is compressed by blosc, but Orbax folders use zstd")
def a_folder_compressed_by_blosc(path):
    _write_scales(path, chunk=8, compressor="blosc")


def _write_scales(path, chunk, compressor):
    store = {"driver": "ocdbt", "base": (path / "variables").as_uri()}
    spec = {"driver": "zarr", "kvstore": {**store, "path": "params.conv1_bn.scale/"}}
    metadata = {"shape": [8], "chunks": [chunk], "dtype": "<f4", "compressor": {"id": compressor}}
    array = ts.open({**spec, "metadata": metadata}, create=True, delete_existing=True).result()
    array.write(np.ones(8, np.float32)).result()


@_add_orbax("its metadata is not a JSON object whose values are all strings")
def a_folder_with_metadata_of_numbers(path):
    (path / "metadata" / "metadata").write_text('{"alpha": 1}')


@_add_orbax("damaged, or not weights (")
def a_folder_with_metadata_that_is_not_json(path):
    (path / "metadata" / "metadata").write_bytes(b"\xff{")


@CASES.add("no complete checkpoint: train it first", "")
def a_workdir_without_checkpoint(path):
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.json").write_text('{"data": {"image_size": 64}}')
