"""HDF5 files that lead elsewhere, claim too much, or expand too far."""

import zlib

import h5py
import numpy as np

from tests.helpers.hostile.registry import Cases
from tests.helpers.weights_files import write_keras_2

KERNEL, KERNEL_SHAPE = "conv1/conv1/kernel:0", (3, 3, 3, 8)
CASES = Cases()


def _replace(file, name=KERNEL, shape=KERNEL_SHAPE, **options):
    """Replaces a dataset by an empty one."""
    del file[name]
    return file.create_dataset(name, shape, np.float32, **options)


@CASES.add_keras_2(f"{KERNEL} is an external link")
def external_link(file):
    del file[KERNEL]
    file[KERNEL] = h5py.ExternalLink("/etc/hostname", "/secret")


@CASES.add_keras_2(f"{KERNEL} is a soft link")
def soft_link(file):
    del file[KERNEL]
    file[KERNEL] = h5py.SoftLink("/conv_pw_1/conv_pw_1/kernel:0")


@CASES.add_keras_2("is stored outside the file")
def virtual_dataset(file):
    del file[KERNEL]
    layout = h5py.VirtualLayout(KERNEL_SHAPE, np.float32)
    layout[...] = h5py.VirtualSource("/etc/hostname", "secret", KERNEL_SHAPE)
    file.create_virtual_dataset(KERNEL, layout)


@CASES.add_keras_2("is stored outside the file")
def external_storage(file):
    _replace(file, external=[("/etc/hostname", 0, 864)])


@CASES.add_keras_2("tensors of another shape: params.conv_pw_2.kernel is (1000000000000,)")
def terabytes(file):
    _replace(file, "conv_pw_2/conv_pw_2/kernel:0", (10**12,), chunks=(1024,))


@CASES.add_keras_2("its tensors claim 1,048,576,0")
def terabytes_in_a_head(file):
    for name, shape in (("a_1", (256 * 10**9, 1024)), ("a_2", (1024, 1024)), ("a_3", (1024, 7))):
        file.create_dataset(f"{name}/{name}/kernel:0", shape, np.float32, chunks=(64, 7))
        file[f"{name}/{name}/bias:0"] = np.zeros(shape[1], np.float32)


@CASES.add_keras_2("was never written")
def never_written(file):
    _replace(file)


@CASES.add_keras_2("was not written completely")
def chunks_never_written(file):
    _replace(file, chunks=KERNEL_SHAPE)


@CASES.add_keras_2("is cut into chunks of")
def chunks_of_gigabytes(file):
    _replace(file, chunks=(3, 3, 3, 10**7), maxshape=(3, 3, 3, None))


@CASES.add_keras_2("is cut into chunks of")
def chunks_of_bytes(file):
    _replace(file, "conv_pw_13/conv_pw_13/kernel:0", (1, 1, 256, 256), chunks=(1, 1, 1, 1))


@CASES.add_keras_2("expands to more than its 864 bytes")
def compressed_bomb(file):
    dataset = _replace(file, compression="gzip")
    dataset.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(1 << 20), 9))  # a megabyte in a kilobyte


@CASES.add_keras_2("has a chunk of 4,")
def a_larger_bomb(file):
    bomb = zlib.compressobj(1)
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(1024)) + bomb.flush()  # a gigabyte in five megabytes
    dataset = _replace(file, compression="gzip")
    dataset.id.write_direct_chunk((0, 0, 0, 0), packed)


@CASES.add_keras_2("a filter other than gzip")
def another_filter(file):
    _replace(file, compression="lzf", data=np.ones(KERNEL_SHAPE, np.float32))


@CASES.add_keras_2("its tensors claim")
def endless_zeros(file):
    for name, shape in (("a_1", (256 * 500, 1024)), ("a_2", (1024, 1024)), ("a_3", (1024, 7))):
        dataset = file.create_dataset(
            f"{name}/{name}/kernel:0", shape, np.float32, chunks=(shape[0], 1), compression="gzip"
        )
        dataset.id.write_direct_chunk((0, 0), zlib.compress(bytes(4 * shape[0])))
        file[f"{name}/{name}/bias:0"] = np.zeros(shape[1], np.float32)


@CASES.add_keras_2("has a chunk that skips a filter")
def a_bomb_that_claims_to_be_uncompressed(file):
    dataset = _replace(file, compression="gzip", shuffle=True)
    dataset.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(1 << 20), 9), filter_mask=1)


def _write_with_a_path_as_name(path, link):
    with h5py.File(write_keras_2(path), "r+") as file:
        file[link] = h5py.ExternalLink("/etc/hostname", "/")
        file["optimizer_conv1_kernel:0"] = np.ones(KERNEL_SHAPE, np.float32)
    path.write_bytes(path.read_bytes().replace(b"optimizer_conv1_kernel:0", b"optimizer/conv1/kernel:0"))


@CASES.add("contains the name 'optimizer/conv1/kernel:0', which is not valid")
def a_name_that_is_a_path_through_a_link(path):
    _write_with_a_path_as_name(path, "optimizer/conv1")


@CASES.add("damaged: its library crashed")
def a_name_that_crashes_hdf5(path):
    _write_with_a_path_as_name(path, "optimizer")


@CASES.add_keras_2("bytes belong to a MobileNet")
def mostly_something_else(file):
    file.create_dataset("optimizer/a", (10**10,), np.uint8)[-1] = 1


@CASES.add_keras_2("groups nested more than 12 deep")
def endless_groups(file):
    group = file
    for _ in range(2000):
        group = group.create_group("a")


@CASES.add_keras_2("groups nested more than 12 deep")
def a_loop(file):
    file["conv1/conv1"]["again"] = file["/"]


@CASES.add_keras_2("more than 10000 objects")
def endless_objects(file):
    for i in range(10_001):
        file.create_group(f"zz/{i}")
