"""Mutated weights files: reading one quickly returns weights or raises a clean error."""

import zipfile
from datetime import timedelta

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.save import write_weights
from mobilenet_jax.weights.weights import Weights
from tests.helpers.weights_files import (
    BACKBONE,
    make_random_tensors,
    write_archive,
    write_checkpoint,
    write_keras_2,
    write_keras_3,
    write_library_file,
    write_safetensors,
)

CLASSIFIER = Architecture(0.25, "small", 3, 1)


def _find_structure(path):
    """Returns the positions of a file's bytes that are neither values of tensors nor zero."""
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if path.suffix == ".safetensors":
        return np.arange(8 + int.from_bytes(content[:8].tobytes(), "little"))
    values = np.zeros(len(content), bool)
    if path.suffix == ".keras":
        start = content.tobytes().index(b"\x89HDF")
        with zipfile.ZipFile(path) as archive:
            archive.extract("model.weights.h5", path.parent)
        inner = path.parent / "model.weights.h5"
    else:
        start, inner = 0, path

    def mark(_, node):
        if isinstance(node, h5py.Dataset):
            stored = [(node.id.get_offset(), node.id.get_storage_size())]
            if node.chunks:
                infos = []
                node.id.chunk_iter(infos.append)
                stored = [(info.byte_offset, info.size) for info in infos]
            for offset, length in stored:
                values[start + offset : start + offset + length] = True

    with h5py.File(inner) as file:
        file.visititems(mark)
    return np.flatnonzero(~values & (content != 0))


@pytest.fixture(scope="module")
def to_mutate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    write_keras_2(folder / "keras2.h5")
    with h5py.File(folder / "packed.h5", "w", libver="latest") as packed, h5py.File(folder / "keras2.h5") as plain:

        def pack(name, node):
            if isinstance(node, h5py.Dataset):
                packed.create_dataset(name, data=node[()], compression="gzip", shuffle=True, fletcher32=True)

        plain.visititems(pack)
    write_archive(folder / "keras3.keras", write_keras_3(folder / "keras3.weights.h5"))
    write_safetensors(folder / "own.safetensors", {"image_size": "[64, 64]", "alpha": "0.25"})
    for library in ("timm", "transformers"):
        write_library_file(folder / f"{library}.safetensors", library)
    return {
        path.name: (path.read_bytes(), _find_structure(path))
        for path in folder.glob("*.*")
        if path.name != "model.weights.h5"
    }


NUMBERS = st.sampled_from([0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 2**20),  # number of the place
        st.one_of(st.binary(min_size=1, max_size=8), st.builds(lambda n: n.to_bytes(8, "little"), NUMBERS), st.none()),
    ),
    min_size=1,
    max_size=12,
)


def _fuzz(files, path, name, changes, cut, to_read=None):
    """Changes the structure of a file and reads it.

    Each change writes bytes to a place, or copies eight bytes to it from another one. What is read is the file, or
    `to_read`, which contains it.
    """
    content, places = files[name]
    mutated = bytearray(content)
    for number, new in changes:
        place = places[number % len(places)]
        if new is None:
            source = places[number * 7919 % len(places)]
            new = content[source : source + 8]
        mutated[place : place + len(new)] = new
    path.write_bytes(mutated[: None if cut is None else len(mutated) * cut // 1000])
    _check_reading(to_read or path)


def _check_reading(path):
    """Reads a file, which gives complete weights or raises an error of one line."""
    try:
        weights = read_weights(path)
    except WeightsError as error:
        message = str(error)
    else:
        message = ""
        assert {n: t.shape for n, t in weights.tensors.items()} == weights.architecture.compute_shapes()
        assert all(np.isfinite(t).all() and t.dtype == np.float32 for t in weights.tensors.values())
    assert len(message) < 1000
    assert message == "" or message.isprintable()


def test_the_files_are_intact_before_they_are_mutated(to_mutate, tmp_path):
    for name, (content, _) in to_mutate.items():
        (tmp_path / name).write_bytes(content)
        assert read_weights(tmp_path / name).architecture[:4] == BACKBONE[:4]


KERAS_FILES = ("keras2.h5", "packed.h5", "keras3.weights.h5", "keras3.keras")
SAFETENSORS_FILES = ("own.safetensors", "timm.safetensors", "transformers.safetensors")
FILES = (*KERAS_FILES, *SAFETENSORS_FILES)
CUT = st.one_of(st.none(), st.none(), st.none(), st.integers(0, 999))
LIMITS = {"deadline": timedelta(seconds=2), "suppress_health_check": list(HealthCheck), "database": None}


@pytest.mark.parametrize("name", FILES)
@given(changes=CHANGES, cut=CUT)
@settings(max_examples=25, derandomize=True, **LIMITS)
def test_mutated_files_give_weights_or_clean_errors(to_mutate, tmp_path_factory, name, changes, cut):
    _fuzz(to_mutate, tmp_path_factory.getbasetemp() / name, name, changes, cut)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERAS_FILES)
@given(changes=CHANGES, cut=CUT)
@settings(max_examples=1500, **LIMITS)
def test_thousands_of_mutated_keras_files_give_weights_or_clean_errors(to_mutate, tmp_path_factory, name, changes, cut):
    _fuzz(to_mutate, tmp_path_factory.getbasetemp() / name, name, changes, cut)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAFETENSORS_FILES)
@given(changes=CHANGES, cut=CUT)
@settings(max_examples=4000, **LIMITS)
def test_thousands_of_mutated_safetensors_files_give_weights_or_clean_errors(
    to_mutate, tmp_path_factory, name, changes, cut
):
    _fuzz(to_mutate, tmp_path_factory.getbasetemp() / name, name, changes, cut)


@pytest.mark.slow
@given(changes=CHANGES, cut=CUT, name=st.sampled_from(["config.json", "preprocessor_config.json"]))
@settings(max_examples=2000, **LIMITS)
def test_thousands_of_mutated_descriptions_give_weights_or_clean_errors(tmp_path_factory, name, changes, cut):
    folder = tmp_path_factory.getbasetemp() / "described"
    if not folder.exists():
        write_weights(
            folder, Weights("", "", CLASSIFIER, make_random_tensors(CLASSIFIER), Metadata()), library="transformers"
        )
    intact = (folder / name).read_bytes()
    try:
        _fuzz({name: (intact, np.arange(len(intact)))}, folder / name, name, changes, cut, folder)
    finally:
        (folder / name).write_bytes(intact)


@pytest.mark.slow
def test_mutated_checkpoints_give_weights_or_clean_errors(tmp_path):
    """Each takes five seconds: TensorFlow starts in a process of its own."""
    prefix = write_checkpoint(tmp_path / "model.ckpt")
    index = prefix.with_name("model.ckpt.index")
    intact, rng = index.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        mutated = bytearray(intact)
        for place in rng.integers(0, len(intact), rng.integers(1, 12)):
            mutated[place] = rng.integers(0, 256)
        index.write_bytes(mutated[: rng.integers(0, len(intact))] if rng.random() < 0.2 else mutated)
        _check_reading(prefix)
