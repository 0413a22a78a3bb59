"""Files of timm and Transformers: their tensors, and the JSON files beside them."""

import json
import os
import zipfile

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.helpers.hostile.registry import Case, Cases
from tests.helpers.weights_files import write_checkpoint, write_library_file

CASES = Cases()


@CASES.add("tensors missing: params.conv_dw_3.kernel", ".safetensors")
def timm_without_a_tensor(path):
    write_library_file(path, "timm")
    tensors = load_file(path)
    del tensors["blocks.1.1.conv_dw.weight"]
    save_file(tensors, path)


@CASES.add("tensors that MobileNet does not have: blocks.9.9.conv_dw.weight", ".safetensors")
def timm_with_another_block(path):
    write_library_file(path, "timm", **{"blocks.9.9.conv_dw.weight": np.ones((8, 1, 3, 3), np.float32)})


@CASES.add("params.conv_pw_1.kernel is (16, 8, 3, 3), not (16, 8, 1, 1)", ".safetensors")
def transformers_with_a_larger_kernel(path):
    name = "mobilenet_v1.layer.1.convolution.weight"
    write_library_file(path, "transformers", **{name: np.ones((16, 8, 3, 3), np.float32)})


@CASES.add("tensors of the same name, with and without a prefix", ".safetensors")
def transformers_with_a_tensor_twice(path):
    write_library_file(path, "transformers", **{"conv_stem.convolution.weight": np.ones((8, 3, 3, 3), np.float32)})


@CASES.add("damaged, or not weights", ".ckpt.index")
def a_damaged_index(path):
    write_checkpoint(path.with_suffix(""))
    content = bytearray(path.read_bytes())
    content[:200] = os.urandom(200)
    path.write_bytes(content)


@CASES.add(".data-00000-of-00001 of the TensorFlow checkpoint is missing", ".ckpt.index")
def an_index_without_data(path):
    path.write_bytes(bytes(100))


@CASES.add("refusing to load a Python pickle: it can execute arbitrary code. Convert PyTorch's", ".bin")
def weights_of_pytorch(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pytorch_model/data.pkl", b"\x80\x02.")
    content, end = path.read_bytes(), b"PK\5\6"
    path.write_bytes(content.replace(end, b"PK\6\7" + bytes(16) + end))  # PyTorch's archives are Zip64


@CASES.add("it holds pytorch_model.bin, but no model.safetensors: refusing to load a Python pickle", "_folder")
def a_folder_with_a_pickle(path):
    path.mkdir()
    (path / "pytorch_model.bin").write_bytes(b"PK")


def _add_folder(name, library, files, message):
    def write(path):
        path.mkdir()
        write_library_file(path / "model.safetensors", library)
        for file, content in files.items():
            (path / file).write_text(content if isinstance(content, str) else json.dumps(content))

    CASES[name] = Case(write, message)


for name, library, config, message in (
    ("timm_of_another_model", "timm", {"architecture": "resnet50"}, "architecture in config.json beside it"),
    (
        "timm_with_other_activations",
        "timm",
        {"model_args": {"act_layer": "swish"}},
        "beside it sets act_layer, which",
    ),
    ("timm_of_another_width", "timm", {"architecture": "mobilenetv1_125"}, "config.json beside it records alpha 1.25"),
    ("timm_with_another_layer", "timm", {"architecture": "mobilenetv1_100h"}, "not that of the tensors"),
    ("timm_of_transformers", "timm", {"model_type": "mobilenet_v1"}, "beside it is that of Transformers"),
    ("transformers_of_timm", "transformers", {"architecture": "mobilenetv1_100"}, "beside it is that of timm"),
    ("timm_with_other_padding", "timm", {"model_args": {"pad_type": "valid"}}, 'not "" or "same"'),
    ("timm_with_other_pooling", "timm", {"global_pool": "max"}, 'global_pool in config.json beside it is "max"'),
    ("timm_with_an_epsilon_of_text", "timm", {"model_args": {"bn_eps": "tiny"}}, 'beside it is "tiny"'),
    ("timm_with_an_epsilon_of_5", "timm", {"model_args": {"bn_eps": 5}}, "not a number between 0 and 1"),
    ("timm_without_a_range", "timm", {"pretrained_cfg": {"std": [0, 1, 1]}}, "beside it is [0, 1, 1]"),
    (
        "timm_with_labels_that_are_a_dict",
        "timm",
        {"label_names": {"a": 1}},
        'label_names in config.json beside it is {"a": 1}, not a list',
    ),
    ("a_list", "timm", [1], "config.json beside it is not a JSON object"),
    ("json_that_is_cut", "timm", '{"architecture": ', "config.json beside it is damaged (Expecting value"),
    ("endless_json", "timm", "[" * 100_000, "config.json beside it is damaged (maximum recursion"),
    ("transformers_of_another_model", "transformers", {"model_type": "vit"}, '"vit", not "mobilenet_v1"'),
    ("transformers_with_swish", "transformers", {"hidden_act": "swish"}, '"swish", not "relu6"'),
    (
        "transformers_of_another_width",
        "transformers",
        {"depth_multiplier": 0.5},
        "beside it records alpha 0.5",
    ),
    ("transformers_with_a_hole_in_its_labels", "transformers", {"id2label": {"0": "a", "7": "b"}}, "ids 0 to 1"),
):
    _add_folder(name, library, {"config.json": config}, message)

_add_folder(
    "a_processor_with_a_range_of_nothing",
    "transformers",
    {"config.json": {}, "preprocessor_config.json": {"image_std": [0.5, 0.5, 0.0]}},
    "image_std in preprocessor_config.json beside it is [0.5, 0.5, 0.0], not",
)
_add_folder(
    "a_processor_that_exchanges_colors",
    "transformers",
    {"config.json": {}, "preprocessor_config.json": {"do_flip_channel_order": True}},
    "exchanges red and blue",
)
_add_folder(
    "a_processor_of_enormous_images",
    "transformers",
    {"config.json": {}, "preprocessor_config.json": {"crop_size": {"height": 1 << 40, "width": 32}}},
    "not a height and a width from 32 to 2048 pixels",
)
