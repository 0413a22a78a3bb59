"""Keras files with tensors that are not those of a MobileNet, or not in their place."""

import h5py
import numpy as np

from mobilenet_jax.weights.layout import Architecture
from tests.helpers.hostile.hdf5 import KERNEL, KERNEL_SHAPE
from tests.helpers.hostile.registry import Cases
from tests.helpers.weights_files import write_keras_2, write_keras_3

DEPTHWISE_KERNEL = "conv_dw_1/conv_dw_1/depthwise_kernel:0"
CASES = Cases()


@CASES.add_keras_2("tensors missing: params.dense_1.bias")
def names_with_odd_numbers(file):
    for name in ("\u0663", "1" * 5000, "22"):
        file[f"{name}/kernel:0"] = np.ones((2, 2), np.float32)


@CASES.add_keras_2("tensors that MobileNet does not have: params.1111")
def names_without_order(file):
    for name in ("\u00b2", "1" * 5000, "a\x1b[2J"):
        file[f"{name}/kernel:0"] = np.ones((2, 2), np.float32)


@CASES.add_keras_2("tensors missing: params.dense_1.bias")
def names_in_odd_orders(file):
    file.attrs["layer_names"] = ["c", "..", "/", "c", "", "conv1", "b", "a"]
    for name in ("a", "b", "c"):
        file[f"{name}/{name}/kernel:0"] = np.ones((2, 2), np.float32)
        file[name].attrs["weight_names"] = [f"{name}/kernel:0"] * 3
    file["conv1"].attrs["weight_names"] = h5py.Empty("f")


@CASES.add_keras_2("the last layer of the head, predictions, is missing or has no classes")
def no_classes(file):
    file["a/kernel:0"] = np.zeros((256, 0), np.float32)
    file["a/bias:0"] = np.zeros(0, np.float32)


@CASES.add_keras_2("conv_dw_5_bn/conv_dw_5_bn/moving_mean:0 contains NaN or infinity")
def nan(file):
    file["conv_dw_5_bn/conv_dw_5_bn/moving_mean:0"][3] = np.nan


@CASES.add_keras_2("conv_pw_3/conv_pw_3/kernel:0 contains NaN or infinity")
def infinity(file):
    file["conv_pw_3/conv_pw_3/kernel:0"][0, 0, 3, 3] = -np.inf


@CASES.add_keras_2("moving_variance:0 contains a negative variance, -1")
def negative_variance(file):
    file["conv_dw_5_bn/conv_dw_5_bn/moving_variance:0"][3] = -1


@CASES.add_keras_2("tensors missing: params.conv_dw_2_bn.scale, params.conv_pw_3.kernel")
def missing(file):
    del file["conv_pw_3/conv_pw_3/kernel:0"]
    del file["conv_dw_2_bn/conv_dw_2_bn/gamma:0"]


@CASES.add_keras_2("not a MobileNet v1: the tensor conv1/kernel is missing")
def no_stem(file):
    del file["conv1"]


@CASES.add_keras_2("tensors that MobileNet does not have: lstm/lstm/recurrent_kernel:0")
def extra(file):
    file["lstm/lstm/recurrent_kernel:0"] = np.zeros((1, 1), np.float32)


@CASES.add_keras_2("tensors that MobileNet does not have: data")
def extra_at_root(file):
    file["data"] = np.zeros(3, np.float32)


@CASES.add("tensors that MobileNet does not have: batch_stats.norm_a.mean, batch_stats.norm_a.var")
def norms_without_order(path):
    with h5py.File(write_keras_2(path, Architecture(0.25, "article_bn", 7, 4)), "r+") as file:
        for ours, name in (("dense_1_bn", "norm_b"), ("dense_2_bn", "norm_a")):
            file.move(f"{ours}/{ours}", f"{name}/{name}")


@CASES.add_keras_2("it holds tensor params.conv1.kernel twice: conv1/conv1/kernel:0 and conv1/zzz/kernel:0")
def twice(file):
    file["conv1/zzz/kernel:0"] = np.zeros(KERNEL_SHAPE, np.float32)


@CASES.add_keras_2("params.conv_dw_1.kernel is (1, 1, 8, 16), not (3, 3, 8, 1)")
def swapped(file):
    file.move(DEPTHWISE_KERNEL, "x")
    file.move("conv_pw_1/conv_pw_1/kernel:0", DEPTHWISE_KERNEL)
    file.move("x", "conv_pw_1/conv_pw_1/kernel:0")


@CASES.add_keras_2("params.conv_dw_1.kernel is (3, 3, 1, 8), not (3, 3, 8, 1)")
def depthwise_in_the_layout_of_flax(file):
    kernel = file[DEPTHWISE_KERNEL][()]
    del file[DEPTHWISE_KERNEL]
    file[DEPTHWISE_KERNEL] = kernel.transpose(0, 1, 3, 2)


@CASES.add_keras_2("tensors of another shape: batch_stats.conv1_bn.mean is (8,), not (16,)")
def two_widths(file):
    del file[KERNEL]
    file[KERNEL] = np.zeros((3, 3, 3, 16), np.float32)


@CASES.add_keras_2("conv1/kernel has the shape (8, 3, 3, 3) (channels first), not (3, 3, 3, 32 alpha)")
def channels_first(file):
    del file[KERNEL]
    file[KERNEL] = np.zeros((8, 3, 3, 3), np.float32)


@CASES.add_keras_2("written by Keras on Theano")
def theano(file):
    file.attrs["backend"] = np.bytes_("theano")


def _retype(name, dtype):
    def retype(file):
        del file[KERNEL]
        file[KERNEL] = np.ones(KERNEL_SHAPE, dtype)

    retype.__name__ = name
    return retype


for name, dtype in (("float64", "<f8"), ("float16", "<f2"), ("big_endian", ">f4"), ("integers", "<i4")):
    CASES.add_keras_2("tensors not of type float32: params.conv1.kernel is ")(_retype(name, dtype))


@CASES.add_keras_2("params.conv1.kernel is ")
def strings(file):
    del file[KERNEL]
    file.create_dataset(KERNEL, KERNEL_SHAPE, h5py.string_dtype())


@CASES.add("swapped layers: layers/conv2d_8/vars/0 should be conv_pw_8, but its layer is conv_pw_9", ".weights.h5")
def swapped_layers_of_one_shape(path):
    with h5py.File(write_keras_3(path), "r+") as file:
        file.move("layers/conv2d_8", "x")
        file.move("layers/conv2d_9", "layers/conv2d_8")
        file.move("x", "layers/conv2d_9")


@CASES.add("its metadata is not a JSON object whose values are all strings", ".weights.h5")
def metadata_that_is_a_list(path):
    with h5py.File(write_keras_3(path), "r+") as file:
        file.attrs["mobilenet_jax"] = "[]"


@CASES.add("its attribute mobilenet_jax is not JSON", ".weights.h5")
def metadata_that_is_not_json(path):
    with h5py.File(write_keras_3(path), "r+") as file:
        file.attrs["mobilenet_jax"] = "["
