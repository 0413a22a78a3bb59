"""Files that are broken, or made to do harm: each is refused in a line, soon, and without taking memory."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from datetime import timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.numpy
import tensorstore as ts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobilenet_jax.pretrained import Metadata, Weights, WeightsError, hdf5, read_weights, write_weights
from mobilenet_jax.pretrained.keras_names import to_keras_3
from mobilenet_jax.pretrained.tensors import Architecture, axes

BACKBONE = Architecture(0.25, None, 0, 1)
KERNEL = "conv1/conv1/kernel:0"


def _values(shape, name):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


def _tensors(architecture=BACKBONE):
    return {name: _values(shape, name) for name, shape in architecture.shapes().items()}


def write_keras_2(path, architecture=BACKBONE):
    """The layout of Keras 2, without Keras."""
    names = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
    with h5py.File(path, "w") as file:
        for name, value in _tensors(architecture).items():
            _, layer, tensor = name.split(".")
            if tensor == "kernel":
                keras_name = "depthwise_kernel" if axes(name) else "kernel"
            else:
                keras_name = names[tensor] if layer.endswith("_bn") else tensor
            file[f"{layer}/{layer}/{keras_name}:0"] = value.transpose(axes(name) or range(value.ndim))
    return path


def write_keras_3(path):
    tensors = _tensors()
    with h5py.File(path, "w") as file:
        for name, keras_name in to_keras_3(tensors).items():
            file[keras_name] = tensors[name].transpose(axes(name) or range(tensors[name].ndim))
            file[keras_name].parent.attrs["name"] = name.split(".")[1]
    return path


def write_archive(path, weights, **members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(weights, "model.weights.h5")
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)


def write_safetensors(path, metadata=None, **changes):
    safetensors.numpy.save_file(_tensors() | changes, path, metadata)


def _described(kind, **config):
    layers = [{"class_name": kind, "config": {"name": "a", **config}}]
    return json.dumps({"class_name": "Functional", "config": {"layers": layers}})


# Each damage is a function that writes a file into a folder, and part of what is said of that file.
CASES = {}


def case(message, suffix=".h5"):
    def add(function):
        CASES[function.__name__ + suffix] = (function, message)
        return function

    return add


def damage(message):
    """A case that is a good Keras 2 file, changed."""

    def add(function):
        def write(path):
            with h5py.File(write_keras_2(path), "r+") as file:
                function(file)

        CASES[function.__name__ + ".h5"] = (write, message)
        return function

    return add


@case("damaged")
def truncated(path):
    write_keras_2(path)
    os.truncate(path, path.stat().st_size // 2)


@case("an empty file")
def empty(path):
    path.touch()


@case("neither HDF5 nor")
def text(path):
    path.write_text("no weights\n" * 100)


@case("damaged")
def only_a_signature(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/a_pickle_was_loaded",)


@case("a Python pickle")
def a_pickle(path):
    path.write_bytes(pickle.dumps(Evil()))


@case("a Python pickle", ".safetensors")
def also_a_pickle(path):
    path.write_bytes(pickle.dumps(Evil()))


@case("a zip archive without model.weights.h5")
def a_zip_of_something_else(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Evil()))


@case("no regular file")
def a_pipe(path):
    os.mkfifo(path)


@case("a folder, but neither", "")
def a_folder(path):
    path.mkdir()


@case("damaged, or no weights", "")
def a_folder_that_claims_to_be_weights(path):
    (path / "variables").mkdir(parents=True)
    (path / "metadata").mkdir()


def folder(message):
    """A case that is a good Orbax folder, changed."""

    def add(function):
        def write(path):
            tensors = _tensors()
            write_weights(path, Weights("", BACKBONE, tensors, Metadata()))
            function(path)

        CASES[function.__name__] = (write, message)
        return function

    return add


@folder("variables/_METADATA in it is a link, or no file")
def a_folder_with_a_link(path):
    (path / "variables" / "_METADATA").unlink()
    (path / "variables" / "_METADATA").symlink_to("/etc/hostname")


@folder("metadata/metadata in it is a link, or no file")
def a_folder_with_a_pipe(path):
    (path / "metadata" / "metadata").unlink()
    os.mkfifo(path / "metadata" / "metadata")


@folder("damaged, or no weights")
def a_folder_with_a_file_missing(path):
    for file in (path / "variables").rglob("d/*"):
        file.unlink()


@folder("damaged, or no weights")
def a_folder_with_a_file_cut_short(path):
    for file in (path / "variables").rglob("d/*"):
        os.truncate(file, file.stat().st_size // 2)


@folder("is cut into chunks of (250000000,)")
def a_folder_with_a_chunk_of_a_gigabyte(path):
    store = {"driver": "ocdbt", "base": (path / "variables").as_uri()}
    spec = {"driver": "zarr", "kvstore": {**store, "path": "params.conv1_bn.scale/"}}
    metadata = {"shape": [8], "chunks": [250_000_000], "dtype": "<f4", "compressor": {"id": "zstd"}}
    array = ts.open({**spec, "metadata": metadata}, create=True, delete_existing=True).result()
    array.write(np.ones(8, np.float32)).result()


@case("no whole checkpoint yet", "")
def a_workdir_without_checkpoint(path):
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.json").write_text('{"data": {"image_size": 64}}')


@damage(f"{KERNEL} is an external link")
def external_link(file):
    del file[KERNEL]
    file[KERNEL] = h5py.ExternalLink("/etc/hostname", "/secret")


@damage(f"{KERNEL} is a soft link")
def soft_link(file):
    del file[KERNEL]
    file[KERNEL] = h5py.SoftLink("/conv_pw_1/conv_pw_1/kernel:0")


@damage("kept outside the file")
def virtual_dataset(file):
    del file[KERNEL]
    layout = h5py.VirtualLayout((3, 3, 3, 8), np.float32)
    layout[...] = h5py.VirtualSource("/etc/hostname", "secret", (3, 3, 3, 8))
    file.create_virtual_dataset(KERNEL, layout)


@damage("kept outside the file")
def external_storage(file):
    del file[KERNEL]
    file.create_dataset(KERNEL, (3, 3, 3, 8), np.float32, external=[("/etc/hostname", 0, 864)])


@damage("tensors of another shape: params.conv_pw_2.kernel is (1000000000000,)")
def terabytes(file):
    del file["conv_pw_2/conv_pw_2/kernel:0"]
    file.create_dataset("conv_pw_2/conv_pw_2/kernel:0", (10**12,), np.float32, chunks=(1024,))


@damage("its tensors claim 1,048,576,0")
def terabytes_in_a_head(file):
    for name, shape in (("a", (256 * 10**9, 1024)), ("b", (1024, 1024)), ("c", (1024, 7))):
        file.create_dataset(f"{name}/{name}/kernel:0", shape, np.float32, chunks=(64, 7))
        file[f"{name}/{name}/bias:0"] = np.zeros(shape[1], np.float32)


@damage("was never written")
def never_written(file):
    del file[KERNEL]
    file.create_dataset(KERNEL, (3, 3, 3, 8), np.float32)


@damage("was not written to its end")
def chunks_never_written(file):
    del file[KERNEL]
    file.create_dataset(KERNEL, (3, 3, 3, 8), np.float32, chunks=(3, 3, 3, 8))


@damage("is cut into chunks of")
def chunks_of_gigabytes(file):
    del file[KERNEL]
    file.create_dataset(KERNEL, (3, 3, 3, 8), np.float32, chunks=(3, 3, 3, 10**7), maxshape=(3, 3, 3, None))


@damage("is cut into chunks of")
def chunks_of_bytes(file):
    del file["conv_pw_13/conv_pw_13/kernel:0"]
    file.create_dataset("conv_pw_13/conv_pw_13/kernel:0", (1, 1, 256, 256), np.float32, chunks=(1, 1, 1, 1))


@damage("expands to more than its 864 bytes")
def compressed_bomb(file):
    del file[KERNEL]
    dataset = file.create_dataset(KERNEL, (3, 3, 3, 8), np.float32, compression="gzip")
    dataset.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(1 << 20), 9))  # a megabyte in a kilobyte


@damage("has a chunk of 1,0")
def a_larger_bomb(file):
    del file[KERNEL]
    bomb = zlib.compressobj(9)
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(1024)) + bomb.flush()  # a gigabyte in a megabyte
    dataset = file.create_dataset(KERNEL, (3, 3, 3, 8), np.float32, compression="gzip")
    dataset.id.write_direct_chunk((0, 0, 0, 0), packed)


@damage("another filter than gzip")
def another_filter(file):
    del file[KERNEL]
    file.create_dataset(KERNEL, data=np.ones((3, 3, 3, 8), np.float32), compression="lzf")


@damage("its tensors claim")
def zeros_without_end(file):
    for name, shape in (("a", (256 * 500, 1024)), ("b", (1024, 1024)), ("c", (1024, 7))):
        dataset = file.create_dataset(
            f"{name}/{name}/kernel:0", shape, np.float32, chunks=(shape[0], 1), compression="gzip"
        )
        dataset.id.write_direct_chunk((0, 0), zlib.compress(bytes(4 * shape[0])))
        file[f"{name}/{name}/bias:0"] = np.zeros(shape[1], np.float32)


@damage("has a chunk that skips a filter")
def a_bomb_that_claims_to_be_plain(file):
    del file[KERNEL]
    dataset = file.create_dataset(KERNEL, (3, 3, 3, 8), np.float32, compression="gzip", shuffle=True)
    dataset.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(1 << 20), 9), filter_mask=1)


def _with_a_way_for_a_name(path, link):
    with h5py.File(write_keras_2(path), "r+") as file:
        file[link] = h5py.ExternalLink("/etc/hostname", "/")
        file["optimizer_conv1_kernel:0"] = np.ones((3, 3, 3, 8), np.float32)
    path.write_bytes(path.read_bytes().replace(b"optimizer_conv1_kernel:0", b"optimizer/conv1/kernel:0"))


@case("a name in it is 'optimizer/conv1/kernel:0'")
def a_name_that_is_a_way_through_a_link(path):
    _with_a_way_for_a_name(path, "optimizer/conv1")


@case("damaged: HDF5 crashed")
def a_name_that_crashes_hdf5(path):
    _with_a_way_for_a_name(path, "optimizer")


@damage("tensors missing: params.dense_1.bias")
def names_that_are_odd_numbers(file):
    for name in ("\u00b2", "1" * 5000, "a\x1b[2J"):
        file[f"{name}/kernel:0"] = np.ones((2, 2), np.float32)


@damage("the layer predictions of its head is missing, or has no classes")
def no_classes(file):
    file["a/kernel:0"] = np.zeros((256, 0), np.float32)
    file["a/bias:0"] = np.zeros(0, np.float32)


@damage("of them are a MobileNet's")
def mostly_something_else(file):
    file.create_dataset("optimizer/a", (10**10,), np.uint8)[-1] = 1


@damage("groups 12 deep")
def groups_without_end(file):
    group = file
    for _ in range(2000):
        group = group.create_group("a")


@damage("groups 12 deep")
def a_loop(file):
    file["conv1/conv1"]["again"] = file["/"]


@damage("more than 10000 objects")
def objects_without_end(file):
    for i in range(10_001):
        file.create_group(f"zz/{i}")


@damage("conv_dw_5_bn/conv_dw_5_bn/moving_mean:0 holds NaN or infinity")
def nan(file):
    file["conv_dw_5_bn/conv_dw_5_bn/moving_mean:0"][3] = np.nan


@damage("conv_pw_3/conv_pw_3/kernel:0 holds NaN or infinity")
def infinity(file):
    file["conv_pw_3/conv_pw_3/kernel:0"][0, 0, 3, 3] = -np.inf


@damage("moving_variance:0 holds a variance of -1")
def negative_variance(file):
    file["conv_dw_5_bn/conv_dw_5_bn/moving_variance:0"][3] = -1


@damage("tensors missing: params.conv_dw_2_bn.scale, params.conv_pw_3.kernel")
def missing(file):
    del file["conv_pw_3/conv_pw_3/kernel:0"]
    del file["conv_dw_2_bn/conv_dw_2_bn/gamma:0"]


@damage("it has no tensor conv1/kernel")
def no_stem(file):
    del file["conv1"]


@damage("tensors MobileNet does not have: lstm/lstm/recurrent_kernel:0")
def extra(file):
    file["lstm/lstm/recurrent_kernel:0"] = np.zeros((1, 1), np.float32)


@damage("tensors MobileNet does not have: data")
def extra_at_root(file):
    file["data"] = np.zeros(3, np.float32)


@damage("params.conv1.kernel stands in it twice: conv1/conv1/kernel:0 and conv1/zzz/kernel:0")
def twice(file):
    file["conv1/zzz/kernel:0"] = np.zeros((3, 3, 3, 8), np.float32)


@damage("params.conv_dw_1.kernel is (1, 1, 8, 16), not (3, 3, 8, 1)")
def swapped(file):
    file.move("conv_dw_1/conv_dw_1/depthwise_kernel:0", "x")
    file.move("conv_pw_1/conv_pw_1/kernel:0", "conv_dw_1/conv_dw_1/depthwise_kernel:0")
    file.move("x", "conv_pw_1/conv_pw_1/kernel:0")


@damage("params.conv_dw_1.kernel is (3, 3, 1, 8), not (3, 3, 8, 1)")
def depthwise_as_in_flax(file):
    kernel = file["conv_dw_1/conv_dw_1/depthwise_kernel:0"][()]
    del file["conv_dw_1/conv_dw_1/depthwise_kernel:0"]
    file["conv_dw_1/conv_dw_1/depthwise_kernel:0"] = kernel.transpose(0, 1, 3, 2)


@damage("tensors of another shape: batch_stats.conv1_bn.mean is (8,), not (16,)")
def two_widths(file):
    del file[KERNEL]
    file[KERNEL] = np.zeros((3, 3, 3, 16), np.float32)


@damage("its conv1/kernel is (8, 3, 3, 3) (channels first), not (3, 3, 3, 32 alpha)")
def channels_first(file):
    del file[KERNEL]
    file[KERNEL] = np.zeros((8, 3, 3, 3), np.float32)


@damage("channels first")
def a_model_that_works_on_channels_first(file):
    file.attrs["model_config"] = _described("Conv2D", data_format="channels_first")


for name, message, layer in (
    ("pixels_scaled_inside", "layers MobileNet v1 does not have: Rescaling a", {"kind": "Rescaling"}),
    ("another_pooling", "does not have: GlobalMaxPooling2D a", {"kind": "GlobalMaxPooling2D"}),
    ("another_activation", "end in tanh; here they do in relu", {"kind": "Dense", "activation": "tanh"}),
    ("another_relu", "ReLU a ends at None, not at 6", {"kind": "ReLU", "max_value": None}),
):

    def _describe(file, layer=layer):
        file.attrs["model_config"] = _described(**layer)

    _describe.__name__ = name
    damage(message)(_describe)


@damage("the description of its model is damaged")
def a_description_nested_without_end(file):
    file.attrs["model_config"] = np.bytes_(b'{"config":' * 5000)


@damage("written by Keras on Theano")
def theano(file):
    file.attrs["backend"] = np.bytes_("theano")


def _retyped(name, dtype):
    def retype(file):
        del file[KERNEL]
        file[KERNEL] = np.ones((3, 3, 3, 8), dtype)

    retype.__name__ = name
    return retype


for name, dtype in (("float64", "<f8"), ("float16", "<f2"), ("big_endian", ">f4"), ("integers", "<i4")):
    damage("tensors not of type float32: params.conv1.kernel is ")(_retyped(name, dtype))


@damage("params.conv1.kernel is ")
def strings(file):
    del file[KERNEL]
    file.create_dataset(KERNEL, (3, 3, 3, 8), h5py.string_dtype())


@case("swapped layers: layers/conv2d_8/vars/0 stands for conv_pw_8 but is of layer conv_pw_9", ".weights.h5")
def swapped_layers_of_one_shape(path):
    with h5py.File(write_keras_3(path), "r+") as file:
        file.move("layers/conv2d_8", "x")
        file.move("layers/conv2d_9", "layers/conv2d_8")
        file.move("x", "layers/conv2d_9")


@case("attribute mobilenet_jax", ".weights.h5")
def metadata_that_is_no_object(path):
    with h5py.File(write_keras_3(path), "r+") as file:
        file.attrs["mobilenet_jax"] = "[]"


@case("would leave the folder", ".keras")
def a_member_that_leaves(path):
    write_archive(path, write_keras_3(path.with_suffix(".part")), **{"..__evil_dot_txt": "evil"})


@case("would leave the folder", ".keras")
def a_member_with_an_absolute_path(path):
    write_archive(path, write_keras_3(path.with_suffix(".part")), **{"__tmp__evil": "evil"})


@case("to 314,572,800 bytes", ".keras")
def a_member_that_expands(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("model.weights.h5", bytes(300 << 20))


@case("damaged", ".keras")
def a_member_that_expands_and_denies_it(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("model.weights.h5", bytes(300 << 20))
    content = path.read_bytes().replace(struct.pack("<I", 300 << 20), struct.pack("<I", 1000))
    path.write_bytes(content)


@case("channels first", ".keras")
def an_archive_that_works_on_channels_first(path):
    config = _described("Conv2D", data_format="channels_first")
    write_archive(path, write_keras_3(path.with_suffix(".part")), config_dot_json=config)


@case("an archive of more than a model", ".keras")
def an_archive_of_members_without_end(path):
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(2000):
            archive.writestr(f"{i}", "")


@case("damaged", ".keras")
def an_archive_cut_short(path):
    write_archive(path, write_keras_3(path.with_suffix(".part")))
    os.truncate(path, path.stat().st_size // 2)


@case("claims a header of 8,000,000,000 bytes", ".safetensors")
def a_header_of_gigabytes(path):
    path.write_bytes(struct.pack("<Q", 8_000_000_000) + b'{"__metadata__":{}}')


@case("claims a header of 50,000,000 bytes", ".safetensors")
def a_header_of_megabytes(path):
    path.write_bytes(struct.pack("<Q", 50_000_000) + b"{" + b" " * 50_000_000)


@case("damaged", ".safetensors")
def safetensors_cut_short(path):
    write_safetensors(path)
    os.truncate(path, path.stat().st_size - 100)


@case("damaged", ".safetensors")
def tensors_that_overlap(path):
    header = json.dumps({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


@case("params.conv1.kernel is F16", ".safetensors")
def safetensors_of_half_precision(path):
    write_safetensors(path, **{"params.conv1.kernel": np.ones((3, 3, 3, 8), np.float16)})


@case("params.conv_pw_9.kernel holds NaN", ".safetensors")
def safetensors_with_nan(path):
    write_safetensors(path, **{"params.conv_pw_9.kernel": np.full((1, 1, 128, 128), np.nan, np.float32)})


@case("it says alpha 1.0, and its tensors are of alpha 0.25", ".safetensors")
def metadata_of_another_alpha(path):
    write_safetensors(path, {"alpha": "1.0"})


@case("2 classes are named, and the last layer has 0", ".safetensors")
def metadata_of_another_head(path):
    write_safetensors(path, {"classes": '["a", "b"]'})


@case("input_scaling is (1.0, -1.0), not a low and a higher number", ".safetensors")
def metadata_out_of_range(path):
    write_safetensors(path, {"input_scaling": "[1, -1]"})


@case("its metadata input_scaling cannot be '[0, 1000", ".safetensors")
def metadata_too_large_for_a_float(path):
    write_safetensors(path, {"input_scaling": f"[0, 1{'0' * 400}]"})


@case("its metadata input_scaling cannot be '{", ".safetensors")
def metadata_of_another_type(path):
    write_safetensors(path, {"input_scaling": '{"1": 0, "2": 1}'})


@case("image_size is (32768, 32768), not a height and a width", ".safetensors")
def metadata_of_an_enormous_image(path):
    write_safetensors(path, {"image_size": "[32768, 32768]"})


@case("its metadata classes cannot be", ".safetensors")
def metadata_nested_without_end(path):
    write_safetensors(path, {"classes": "[" * 100_000})


REFUSE = """
import json, resource, sys, time
from mobilenet_jax.pretrained import Metadata, Weights, WeightsError, read_weights, write_weights

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

good, *paths = sys.argv[1:]
read_weights(good)
before = peak()
for path in paths:
    start = time.perf_counter()
    try:
        read_weights(path)
        said = "it was read"
    except WeightsError as error:
        said = str(error)
    print(json.dumps([said, time.perf_counter() - start, peak() - before]), flush=True)
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What a process of its own says of each file, how long that takes, and the most memory taken so far, in MB."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = {}
    for name, (write, _) in CASES.items():
        paths[name] = folder / name
        write(paths[name])
    good = write_keras_2(folder / "good.h5")
    command = [sys.executable, "-c", REFUSE, good, *paths.values()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stderr == ""
    return {n: (paths[n], *json.loads(line)) for n, line in zip(CASES, result.stdout.splitlines(), strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_a_line_in_little_time_and_memory(refusals, name):
    path, said, seconds, megabytes = refusals[name]
    assert CASES[name][1] in said
    assert said.startswith(str(path))
    assert said.isprintable()
    assert seconds < 2
    size = path.stat().st_size / 2**20 if path.is_file() else 0
    assert megabytes < 200 + size
    assert not Path("/tmp/a_pickle_was_loaded").exists()


MEASURE = """
import os, resource, subprocess, sys
for path in sys.argv[3:]:
    subprocess.run([sys.argv[1], "-P", sys.argv[2], path], input=b'"conv1/conv1/kernel:0"\\n',
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(path, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 - os.path.getsize(path) / 2**20)
"""


def test_the_process_that_reads_hdf5_takes_little_memory(refusals):
    """Measured from a process that is itself small: the peak of a process counts what its parent had."""
    paths = [path for name, (path, *_) in refusals.items() if name.endswith(".h5") and path.is_file()]
    command = [sys.executable, "-I", "-S", "-c", MEASURE, sys.executable, str(hdf5._WORKER), *paths]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(paths)
    for line in lines:
        assert float(line.split()[-1]) < 200, line


def test_nan_is_taken_when_allowed(refusals):
    weights = read_weights(refusals["nan.h5"][0], allow_nonfinite=True)
    assert np.isnan(weights.tensors["batch_stats.conv_dw_5_bn.mean"][3])


def test_good_files_are_read(tmp_path):
    expected = _tensors()
    write_safetensors(tmp_path / "w.safetensors")
    write_archive(tmp_path / "w.keras", write_keras_3(tmp_path / "w.weights.h5"))
    for path in (
        write_keras_2(tmp_path / "w.h5"),
        *(tmp_path / f"w{s}" for s in (".weights.h5", ".keras", ".safetensors")),
    ):
        found = read_weights(path).tensors
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("name", ["w.weights.h5", "w.safetensors", "w.keras", "w"])
def test_what_a_file_is_is_seen_from_its_content(tmp_path, name):
    shutil.copy(write_keras_2(tmp_path / "w.h5"), tmp_path / name)
    assert read_weights(tmp_path / name).architecture == BACKBONE


def test_a_missing_file_is_named():
    with pytest.raises(WeightsError, match="nowhere.h5: no such file of weights"):
        read_weights("nowhere.h5")


def _structure(path):
    """The positions of a file's bytes that are not the tensors' values, those that are zero left out."""
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

    def note(_, node):
        if isinstance(node, h5py.Dataset):
            stored = [(node.id.get_offset(), node.id.get_storage_size())]
            if node.chunks:
                infos = []
                node.id.chunk_iter(infos.append)
                stored = [(info.byte_offset, info.size) for info in infos]
            for offset, length in stored:
                values[start + offset : start + offset + length] = True

    with h5py.File(inner) as file:
        file.visititems(note)
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
    return {
        path.name: (path.read_bytes(), _structure(path))
        for path in folder.glob("*.*")
        if path.name != "model.weights.h5"
    }


NUMBERS = st.sampled_from([0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 2**20),  # where
        st.one_of(st.binary(min_size=1, max_size=8), st.builds(lambda n: n.to_bytes(8, "little"), NUMBERS), st.none()),
    ),
    min_size=1,
    max_size=12,
)


def _fuzz(files, path, name, changes, cut):
    """Changes a file at places that matter, or copies eight bytes from one of them to another, and reads it."""
    content, places = files[name]
    mutated = bytearray(content)
    for where, new in changes:
        at = places[where % len(places)]
        if new is None:
            source = places[where * 7919 % len(places)]
            new = content[source : source + 8]
        mutated[at : at + len(new)] = new
    path.write_bytes(mutated[: None if cut is None else len(mutated) * cut // 1000])
    try:
        weights = read_weights(path)
    except WeightsError as error:
        said = str(error)
    else:
        said = ""
        assert {n: t.shape for n, t in weights.tensors.items()} == weights.architecture.shapes()
        assert all(np.isfinite(t).all() and t.dtype == np.float32 for t in weights.tensors.values())
    assert len(said) < 1000
    assert said == "" or said.isprintable()


def test_the_files_to_mutate_are_good(to_mutate, tmp_path):
    for name, (content, _) in to_mutate.items():
        (tmp_path / name).write_bytes(content)
        assert read_weights(tmp_path / name).architecture == BACKBONE


FILES = ("keras2.h5", "packed.h5", "keras3.weights.h5", "keras3.keras", "own.safetensors")
CUT = st.one_of(st.none(), st.none(), st.none(), st.integers(0, 999))
LIMITS = {"deadline": timedelta(seconds=2), "suppress_health_check": list(HealthCheck), "database": None}


@pytest.mark.parametrize("name", FILES)
@given(changes=CHANGES, cut=CUT)
@settings(max_examples=25, derandomize=True, **LIMITS)
def test_a_mutated_file_gives_weights_or_a_clean_error(to_mutate, tmp_path_factory, name, changes, cut):
    _fuzz(to_mutate, tmp_path_factory.getbasetemp() / name, name, changes, cut)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES[:-1])
@given(changes=CHANGES, cut=CUT)
@settings(max_examples=1500, **LIMITS)
def test_thousands_of_mutated_keras_files_give_weights_or_clean_errors(to_mutate, tmp_path_factory, name, changes, cut):
    _fuzz(to_mutate, tmp_path_factory.getbasetemp() / name, name, changes, cut)


@pytest.mark.slow
@given(changes=CHANGES, cut=CUT)
@settings(max_examples=4000, **LIMITS)
def test_thousands_of_mutated_safetensors_files_give_weights_or_clean_errors(to_mutate, tmp_path_factory, changes, cut):
    _fuzz(to_mutate, tmp_path_factory.getbasetemp() / "own.safetensors", "own.safetensors", changes, cut)
