"""Models that a format cannot express are refused by name; the others are written exactly."""

import json

import numpy as np
import pytest

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.metadata import Metadata, compute_mean_std, make_input_scaling
from mobilenet_jax.weights.save import check_destination, write_weights
from mobilenet_jax.weights.weights import Weights
from tests.helpers.weights_files import are_equal, make_random_tensors

SMALL = Architecture(1.0, "small", 3, 1)


def _make_weights(architecture=SMALL, metadata=Metadata()):  # noqa: B008
    return Weights("memory", "", architecture, make_random_tensors(architecture), metadata)


def _write(folder, library=None, size=None, **changes):
    weights = _make_weights(SMALL._replace(**changes), Metadata(size))
    write_weights(folder / ("w" if library else "w.weights.h5"), weights, library=library)


@pytest.mark.parametrize(
    ("library", "changes", "message"),
    [
        ("timm", {"head": "article", "positions": 49}, "timm has no MobileNet v1 with the head 'article'"),
        ("timm", {"alpha": 0.25}, "timm has no MobileNet v1 of alpha 0.25: it has 1.0 and 1.25"),
        ("timm", {"alpha": 1.25, "conv_head": True}, "timm has no MobileNet v1 of alpha 1.25 with conv_head"),
        ("timm", {"size": (100, 128)}, "timm cannot express the padding 'keras' for images of 100 x 128"),
        ("transformers", {"head": "article_bn", "positions": 49}, "Transformers has no MobileNet v1 with the head"),
        (
            "transformers",
            {"head": None, "num_classes": 0},
            "the model has no classifier, and Trans",
        ),
        ("transformers", {"conv_head": True}, "Transformers' MobileNet v1 has no layer conv_head"),
        ("transformers", {"alpha": 0.125}, "no MobileNet v1 of alpha 0.125: the smallest is 0.25"),
        ("transformers", {"size": (65, 65)}, "Transformers cannot express the padding 'keras' for images of 65 x 65"),
        (None, {"padding": "symmetric"}, "Keras cannot express the padding 'symmetric'"),
        (None, {"padding": "same", "size": (100, 100)}, "Keras cannot express the padding 'same' for images of 100"),
        (None, {"conv_head": True}, "Keras's MobileNet has no layer conv_head"),
        (None, {"batch_norm_epsilon": 1e-5}, "the epsilon 0.001 of batch normalization, not 1e-05"),
    ],
)
def test_a_model_that_a_format_cannot_express_is_refused_by_name(tmp_path, library, changes, message):
    with pytest.raises(WeightsError, match=message.replace("(", r"\(")):
        _write(tmp_path, library, **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(127, 224), (63, 64)])
def test_keras_padding_is_written_as_same_at_sizes_where_both_are_equal(tmp_path, size):
    _write(tmp_path, "transformers", size)
    assert json.loads((tmp_path / "w" / "config.json").read_text())["tf_padding"] is True
    assert read_weights(tmp_path / "w").architecture == SMALL._replace(padding="same")


@pytest.mark.parametrize("name", ["w.safetensors", "w"])
def test_own_formats_keep_every_variant(tmp_path, name):
    architecture = Architecture(0.125, "small", 3, 1, True, 1e-5, "symmetric")
    metadata = Metadata((64, 96), make_input_scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    weights = _make_weights(architecture, metadata)
    write_weights(tmp_path / name, weights)
    read = read_weights(tmp_path / name)
    assert read.architecture == architecture
    assert read.metadata.input_scaling == metadata.input_scaling
    assert are_equal(read.tensors, weights.tensors)


def test_mean_and_standard_deviation_of_each_channel_survive_both_libraries(tmp_path):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    metadata = Metadata((64, 64), make_input_scaling(mean, std), ("a", "b", "c"))
    assert compute_mean_std(metadata.input_scaling) == (mean, std)
    for scaling in ((0.0, 255.0), (-127.5, 127.5), (0.0, 1.0)):
        assert make_input_scaling(*compute_mean_std(scaling)) == pytest.approx(scaling, rel=1e-14)
    for library in ("timm", "transformers"):
        write_weights(tmp_path / library, _make_weights(metadata=metadata), library=library)
        read = read_weights(tmp_path / library).metadata
        assert (read.image_size, read.classes) == ((64, 64), ("a", "b", "c"))
        np.testing.assert_allclose(read.input_scaling, metadata.input_scaling, rtol=1e-12)


def test_the_heads_imagenet_and_small_are_the_same_classifier(tmp_path):
    weights = _make_weights(SMALL._replace(head="imagenet"))
    write_weights(tmp_path / "w", weights, library="timm")
    kernel = read_weights(tmp_path / "w").tensors["params.predictions.kernel"]
    np.testing.assert_array_equal(kernel, weights.tensors["params.conv_preds.kernel"][0, 0])


def test_a_folder_of_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "config.json").touch()
    with pytest.raises(WeightsError, match="exists and does not hold weights"):
        check_destination(tmp_path / "w", library="timm", force=True)
    with pytest.raises(WeightsError, match=r"timm reads a folder, so its name has no suffix"):
        check_destination(tmp_path / "w.safetensors", library="timm", force=True)
