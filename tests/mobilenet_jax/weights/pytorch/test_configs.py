"""The facts that the JSON files of timm and Transformers add to the tensors."""

import hashlib
import json

import numpy as np
import pytest

from input_pipeline.preprocessing import Preprocessing
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.metadata import Metadata, make_input_scaling
from mobilenet_jax.weights.pytorch.configs import build_files, read_description
from tests.helpers.weights_files import write_library_file

IMAGENET = make_input_scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def _read(folder, library, **files):
    write_library_file(folder / "model.safetensors", library)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return read_weights(folder).metadata


@pytest.mark.parametrize(
    ("config", "scaling", "size"),
    [
        ({"pretrained_cfg": {"input_size": [3, 160, 128]}}, IMAGENET, (160, 128)),
        ({"input_size": [3, 192, 192], **HALF}, (-1, 1), (192, 192)),
        ({"pretrained_cfg": HALF}, (-1, 1), (224, 224)),
    ],
)
def test_the_range_and_size_are_those_that_timm_takes(tmp_path, config, scaling, size):
    metadata = _read(tmp_path, "timm", config=config)
    np.testing.assert_allclose(metadata.input_scaling, scaling, rtol=1e-12)
    assert metadata.image_size == size


def test_a_processor_that_does_not_mention_a_crop_has_its_size(tmp_path):
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 160, "width": 96}}
    assert _read(tmp_path, "transformers", config={}, preprocessor_config=processor).image_size == (160, 96)


@pytest.mark.parametrize(
    ("config", "resize", "is_other"),
    [
        ({"crop_mode": "center", "crop_pct": 1.0}, "crop", False),
        ({"crop_pct": 1.0}, "crop", False),
        ({"crop_mode": "squash", "crop_pct": 1.0}, "stretch", False),
        ({"crop_mode": "squash", "crop_pct": 0.875}, "stretch", True),
        ({"crop_mode": "border", "crop_pct": 1.0}, "stretch", True),
        ({"crop_mode": ["center"], "crop_pct": None}, "stretch", True),
        ({"crop_pct": 0.875}, "crop", True),
        ({"input_size": [3, 224, 224]}, "crop", True),
    ],
)
def test_the_most_similar_resizing_to_that_of_timm_is_recorded(tmp_path, config, resize, is_other, caplog):
    assert _read(tmp_path, "timm", config={"pretrained_cfg": config}).preprocessing == Preprocessing(resize)
    assert ("timm crops or pads images" in caplog.text) == is_other


@pytest.mark.parametrize(
    ("processor", "resize", "is_other"),
    [
        ({"size": {"shortest_edge": 160}, "crop_size": {"height": 160, "width": 160}}, "crop", False),
        ({"size": {"shortest_edge": 160}, "crop_size": 160, "do_center_crop": True}, "crop", False),
        ({"size": 160, "crop_size": 160}, "crop", False),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, "crop", True),
        ({"size": {"shortest_edge": 160}, "crop_size": {"height": 160, "width": 128}}, "stretch", True),
        ({"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 224}}, "stretch", True),
        ({"size": {"height": 160, "width": 160}, "crop_size": {"height": 160, "width": 160}}, "stretch", False),
        ({"size": {"shortest_edge": 160}, "crop_size": 160, "do_center_crop": False}, "stretch", False),
        ({"size": None, "crop_size": 160}, "stretch", True),
        ({"size": [160, 160], "crop_size": 160}, "stretch", True),
    ],
)
def test_the_most_similar_resizing_to_that_of_transformers_is_recorded(tmp_path, processor, resize, is_other, caplog):
    metadata = _read(tmp_path, "transformers", preprocessor_config=processor)
    assert metadata.preprocessing == Preprocessing(resize)
    assert ("Transformers crops or pads images" in caplog.text) == is_other


@pytest.mark.parametrize(
    ("library", "size", "steps", "message"),
    [
        ("timm", (64, 64), ("stretch", "shades_of_gray"), "timm cannot express color_constancy=shades_of_gray"),
        ("transformers", (64, 64), ("crop", "shades_of_gray"), "Transformers cannot express color_constancy=shades"),
        ("transformers", (64, 96), ("crop", "none"), "Transformers cannot express resize=crop for 64 x 96 pixels"),
    ],
)
def test_preprocessing_that_a_library_lacks_is_refused(library, size, steps, message):
    architecture = Architecture(1.0, "small", 7, 1, False, 1e-3, "same")
    with pytest.raises(WeightsError, match=message):
        build_files(library, architecture, Metadata(size, preprocessing=Preprocessing(*steps)))


def test_class_names_of_a_classifier_that_was_left_out_are_dropped(tmp_path):
    assert _read(tmp_path, "transformers", config={"id2label": {"0": "a", "1": "b"}}).classes is None


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({"pretrained_cfg": {"mean": None, "std": None, "input_size": None}}, IMAGENET),
        ({"pretrained_cfg": {"mean": 0, "std": []}}, IMAGENET),
        ({"pretrained_cfg": {"mean": 0.5, "std": [0.5]}}, (-1, 1)),
        ({"model_args": {"bn_eps": None}, "pretrained_cfg": HALF, "global_pool": None}, (-1, 1)),
    ],
)
def test_timm_takes_null_for_its_default_and_a_number_for_all_channels(tmp_path, config, scaling):
    metadata = _read(tmp_path, "timm", config=config)
    np.testing.assert_allclose(metadata.input_scaling, scaling, rtol=1e-12)
    assert metadata.image_size == (224, 224)
    assert read_weights(tmp_path).architecture.batch_norm_epsilon == 1e-5


def test_transformers_takes_a_number_for_all_channels(tmp_path):
    processor = {"image_mean": 0, "image_std": [1.0], "do_center_crop": True, "crop_size": [160, 128]}
    metadata = _read(tmp_path, "transformers", preprocessor_config=processor)
    assert metadata.input_scaling == (0, 1)
    assert metadata.image_size == (160, 128)


def test_the_image_size_of_transformers_may_be_a_height_and_a_width(tmp_path):
    assert _read(tmp_path, "transformers", config={"image_size": [160, 128]}).image_size == (160, 128)


@pytest.mark.parametrize(("library", "read"), [("timm", 1), ("transformers", 2)])
def test_the_hash_of_the_weights_includes_the_files_that_describe_them(tmp_path, library, read):
    plain = _read(tmp_path, library).source_sha256
    assert plain == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    described = _read(tmp_path, library, config={}, preprocessor_config={}).source_sha256
    content = (tmp_path / "model.safetensors").read_bytes() + read * b"{}"
    assert described == hashlib.sha256(content).hexdigest()
    assert read_weights(tmp_path).identity == f"sha256:{described}"


SIZES = "a height and a width from 32 to 2048 pixels"
MEANS, STDS = (f"a number between {low} and 1e+06, or one for each of three channels" for low in ("-1e+06", "1e-06"))


@pytest.mark.parametrize(
    ("library", "file", "content", "message"),
    [
        ("timm", "config", {"pretrained_cfg": {"mean": [0.5, 0.5]}}, f"mean = [0.5, 0.5], not {MEANS}"),
        ("timm", "config", {"pretrained_cfg": {"std": "half"}}, f'std = "half", not {STDS}'),
        ("timm", "config", {"pretrained_cfg": {"input_size": 160}}, f"input_size = 160, not {SIZES}"),
        ("timm", "config", {"pretrained_cfg": [1]}, "pretrained_cfg = [1], not an object"),
        ("timm", "config", {"model_args": {"bn_eps": 0}}, "bn_eps = 0, not a number between 0 and 1"),
        ("timm", "config", {"model_args": {"pad_type": ["same"]}}, 'pad_type = ["same"], not "" or "same"'),
        ("timm", "config", {"label_names": ["a", 1]}, 'label_names = ["a", 1], not printable names'),
        ("transformers", "config", {"depth_multiplier": None}, "depth_multiplier = null, not a number between"),
        ("transformers", "config", {"layer_norm_eps": None}, "layer_norm_eps = null, not a number between 0 and 1"),
        ("transformers", "config", {"tf_padding": None}, "tf_padding = null, not true or false"),
        ("transformers", "config", {"image_size": [160]}, f"image_size = [160], not {SIZES}"),
        ("transformers", "config", {"id2label": {"1": "a", "2": "b"}},
         'id2label = {"1": "a", "2": "b"}, not an object of 2 names with the ids 0 to 1'),
        ("transformers", "config", {"id2label": ["a" * 99]}, f'id2label = ["{"a" * 78}..., not an object'),
        ("transformers", "preprocessor_config", {"image_mean": None}, f"image_mean = null, not {MEANS}"),
        ("transformers", "preprocessor_config", {"rescale_factor": None}, "rescale_factor = null, not a number"),
        ("transformers", "preprocessor_config", {"size": {"height": 96, "width": None}},
         f'size = {{"height": 96, "width": null}}, not {SIZES}'),
    ],
)  # fmt: skip
def test_an_unsupported_value_is_named_with_its_file_and_the_valid_ones(tmp_path, library, file, content, message):
    with pytest.raises(WeightsError) as error:
        _read(tmp_path, library, **{file: content})
    expected = message.replace(" = ", f" in {file}.json beside it is ", 1)
    assert expected in str(error.value)
    assert "damaged" not in str(error.value)


def test_a_classifier_with_another_number_of_classes_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"num_classes": 99}))
    with pytest.raises(WeightsError, match=r"num_classes in config\.json beside it is 99, not 7, as in the classifier"):
        read_description(tmp_path, "timm", {"params.predictions.kernel": (7, 1024)})


PREPROCESSING = "resize=crop, input scaling [-1, 1]"


@pytest.mark.parametrize(
    ("library", "files", "missing", "facts"),
    [
        ("timm", {}, ["config"], f"padding=symmetric, batch_norm_epsilon=1e-05, {PREPROCESSING}"),
        ("transformers", {"config": {}}, ["preprocessor_config"], PREPROCESSING),
        ("transformers", {"preprocessor_config": {}}, ["config"], "padding=same, batch_norm_epsilon=0.001"),
        (
            "transformers", {}, ["config", "preprocessor_config"],
            f"padding=same, batch_norm_epsilon=0.001, {PREPROCESSING}",
        ),
    ],
)  # fmt: skip
def test_defaults_are_assumed_with_a_warning(library, files, missing, facts, tmp_path, caplog):
    assert _read(tmp_path, library, **files).preprocessing == Preprocessing("crop")
    names = " and ".join(str(tmp_path / f"{name}.json") for name in missing)
    assert caplog.messages == [f"{names} not found: assuming {facts}"]
