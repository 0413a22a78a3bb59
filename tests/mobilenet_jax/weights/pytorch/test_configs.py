"""The facts that the JSON files of timm and Transformers add to the tensors."""

import json

import numpy as np
import pytest

from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.metadata import make_input_scaling
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


def test_class_names_of_a_classifier_that_was_left_out_are_dropped(tmp_path):
    assert _read(tmp_path, "transformers", config={"id2label": {"0": "a", "1": "b"}}).classes is None
