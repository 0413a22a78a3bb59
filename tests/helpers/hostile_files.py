"""Files of weights, good ones and ones that are broken or made to do harm, written without Keras."""

import json
import os
import pickle
import struct
import zipfile
import zlib

import h5py
import numpy as np
import safetensors.numpy
import tensorstore as ts

from mobilenet_jax.weights.keras.names import to_keras_3
from mobilenet_jax.weights.layout import Architecture, axes
from mobilenet_jax.weights.save import write_weights
from mobilenet_jax.weights.weights import Weights
from mobilenet_jax.weights.weights_file import Metadata

BACKBONE = Architecture(0.25, None, 0, 1)
KERNEL = "conv1/conv1/kernel:0"


def _values(shape, name):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


def random_tensors(architecture=BACKBONE):
    return {name: _values(shape, name) for name, shape in architecture.shapes().items()}


def write_keras_2(path, architecture=BACKBONE):
    """The layout of Keras 2, without Keras."""
    names = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
    with h5py.File(path, "w") as file:
        for name, value in random_tensors(architecture).items():
            _, layer, tensor = name.split(".")
            if tensor == "kernel":
                keras_name = "depthwise_kernel" if axes(name) else "kernel"
            else:
                keras_name = names[tensor] if layer.endswith("_bn") else tensor
            file[f"{layer}/{layer}/{keras_name}:0"] = value.transpose(axes(name) or range(value.ndim))
    return path


def write_keras_3(path):
    tensors = random_tensors()
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
    safetensors.numpy.save_file(random_tensors() | changes, path, metadata)


def _described(*layers):
    layers = [{"class_name": layer["kind"], "config": {"name": "a", **layer}} for layer in layers]
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
            tensors = random_tensors()
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


@damage("has a chunk of 4,")
def a_larger_bomb(file):
    del file[KERNEL]
    bomb = zlib.compressobj(1)
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(1024)) + bomb.flush()  # a gigabyte in five megabytes
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


@case("tensors MobileNet does not have: batch_stats.norm_a.mean, batch_stats.norm_a.var")
def norms_in_no_order(path):
    with h5py.File(write_keras_2(path, Architecture(0.25, "article_bn", 7, 4)), "r+") as file:
        for ours, name in (("dense_1_bn", "norm_b"), ("dense_2_bn", "norm_a")):
            file.move(f"{ours}/{ours}", f"{name}/{name}")


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
    file.attrs["model_config"] = _described({"kind": "Conv2D", "data_format": "channels_first"})


_DENSE, _NORM, _RELU = {"kind": "Dense"}, {"kind": "BatchNormalization"}, {"kind": "Activation", "activation": "relu"}
_WITH_NORM = (_DENSE, _NORM, _RELU)
for name, message, *layers in (
    ("pixels_scaled_inside", "layers MobileNet v1 does not have: Rescaling a", {"kind": "Rescaling"}),
    ("another_pooling", "does not have: GlobalMaxPooling2D a", {"kind": "GlobalMaxPooling2D"}),
    ("another_activation", "are followed by tanh; here by relu", {"kind": "Dense", "activation": "tanh"}),
    ("another_relu", "ReLU a ends at None, not at 6", {"kind": "ReLU", "max_value": None}),
    ("another_relu_in_the_head", "ReLU a ends at 6, not at None", _DENSE, {"kind": "ReLU", "max_value": 6}, _DENSE),
    ("another_epsilon", "another epsilon than 0.001", {**_NORM, "epsilon": 1e-5}),
    ("relu_before_norm", "followed by relu and batch normalization, nothing;", _DENSE, _RELU, _NORM, _DENSE),
    ("norm_without_relu", "followed by batch normalization, nothing;", _DENSE, _NORM, _DENSE),
    ("norm_last", "followed by batch normalization and relu, batch normalization;", *_WITH_NORM, _DENSE, _NORM),
    ("one_norm", "followed by relu, batch normalization and relu, nothing;", _DENSE, _RELU, *_WITH_NORM, _DENSE),
):

    def _describe(file, layers=layers):
        file.attrs["model_config"] = _described(*layers)

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
    config = _described({"kind": "Conv2D", "data_format": "channels_first"})
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
