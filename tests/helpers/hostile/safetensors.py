"""Safetensors files: their headers, tensors and metadata."""

import json
import os
import struct

import numpy as np

from tests.helpers.hostile.hdf5 import KERNEL_SHAPE
from tests.helpers.hostile.registry import Case, Cases
from tests.helpers.weights_files import write_safetensors

CASES = Cases()


@CASES.add("claims a header of 8,000,000,000 bytes", ".safetensors")
def a_header_of_gigabytes(path):
    path.write_bytes(struct.pack("<Q", 8_000_000_000) + b'{"__metadata__":{}}')


@CASES.add("claims a header of 50,000,000 bytes", ".safetensors")
def a_header_of_megabytes(path):
    path.write_bytes(struct.pack("<Q", 50_000_000) + b"{" + b" " * 50_000_000)


@CASES.add("damaged", ".safetensors")
def truncated_safetensors(path):
    write_safetensors(path)
    os.truncate(path, path.stat().st_size - 100)


@CASES.add("damaged", ".safetensors")
def overlapping_tensors(path):
    header = json.dumps({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


@CASES.add("params.conv1.kernel is F16", ".safetensors")
def safetensors_of_half_precision(path):
    write_safetensors(path, **{"params.conv1.kernel": np.ones(KERNEL_SHAPE, np.float16)})


@CASES.add("params.conv_pw_9.kernel contains NaN", ".safetensors")
def safetensors_with_nan(path):
    write_safetensors(path, **{"params.conv_pw_9.kernel": np.full((1, 1, 128, 128), np.nan, np.float32)})


for name, key, value, message in (
    ("another_alpha", "alpha", "1.0", "its metadata record alpha 1.0, but its tensors have alpha 0.25"),
    ("another_head", "classes", '["a", "b"]', "2 class names are recorded, but the last layer has 0 outputs"),
    (
        "a_reversed_range", "input_scaling", "[1, -1]",
        "input_scaling (1.0, -1.0) is not a low number and a higher one",
    ),
    (
        "numbers_too_large_for_a_float", "input_scaling", f"[0, 1{'0' * 400}]",
        "the metadata input_scaling cannot be '[0, 1000",
    ),
    ("another_type", "input_scaling", '{"1": 0, "2": 1}', "the metadata input_scaling cannot be '{"),
    (
        "an_enormous_image", "image_size", "[32768, 32768]",
        "image_size (32768, 32768) is not a height and a width from 32 to 2048 pixels",
    ),
    ("endless_nesting", "classes", "[" * 100_000, "the metadata classes cannot be"),
    ("names_that_are_numbers", "classes", "[1, 2]", "classes contains a name that is not printable text"),
):  # fmt: skip

    def _write(path, key=key, value=value):
        write_safetensors(path, {key: value})

    CASES[f"metadata_with_{name}.safetensors"] = Case(_write, message)
