"""Weights of timm and Transformers: outputs equal to those of the libraries, in both directions."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from input_pipeline.image_ops import preprocess
from input_pipeline.image_reader import read_images
from input_pipeline.preprocessing import Preprocessing
from mobilenet_jax.model.preprocessing import scale_pixels
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.save import save_pretrained, write_weights
from tests.helpers.library_models import (
    MODELS,
    build_library_model,
    compute_library_outputs,
    import_torch,
    make_library_tensors,
)

GOLDEN = Path(__file__).with_name("golden_outputs.json")  # of the libraries, at 16 places of each layer
GOLDEN_SIZE = (65, 97)
IN_FAST_TESTS = ("mobilenetv1_100h", "mobilenet_v1_0.25")  # at every size; all others at the size of the stored outputs
CONFIGS = {
    "timm": lambda name, _: {"architecture": name, "num_classes": 7},
    "transformers": lambda _, architecture: {
        "model_type": "mobilenet_v1",
        "depth_multiplier": architecture.alpha,
        "tf_padding": architecture.padding == "same",
    },
}


def _write_library_files(folder, name):
    library, architecture = MODELS[name]
    folder.mkdir()
    save_file(make_library_tensors(name), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIGS[library](name, architecture)))
    return folder


def _compute_outputs(weights, images):
    """Returns the outputs of the stem, of block 6, of all blocks, and the logits."""
    last = "conv_head_relu" if weights.architecture.conv_head else "conv_pw_13_relu"
    layers = ("conv1_relu", "conv_pw_6_relu", last)
    model = weights.architecture.build_model()

    @jax.jit
    def apply(variables, images):
        return model.apply(
            variables,
            images,
            train=False,
            capture_intermediates=lambda module, _: module.name in layers,
            mutable=["intermediates"],
        )

    logits, state = apply(weights.variables, images)
    return [state["intermediates"][layer]["__call__"][0] for layer in layers] + [logits]


def _sample_places(output):
    flat = np.asarray(output, np.float64).ravel()
    return flat[np.linspace(0, flat.size - 1, 16).astype(int)]


def _make_images(size):
    return np.random.default_rng(0).uniform(-1, 1, (2, *size, 3)).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_at_three_depths_equal_those_stored_from_the_library(tmp_path, name):
    weights = read_weights(_write_library_files(tmp_path / "w", name))
    assert weights.architecture == MODELS[name][1]
    outputs = _compute_outputs(weights, _make_images(GOLDEN_SIZE))
    for output, expected in zip(outputs, json.loads(GOLDEN.read_text())[name], strict=True):
        np.testing.assert_allclose(_sample_places(output), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", MODELS)
def test_the_stored_outputs_are_those_of_the_library(name):
    outputs = compute_library_outputs(name, build_library_model(name), _make_images(GOLDEN_SIZE))
    for output, expected in zip(outputs, json.loads(GOLDEN.read_text())[name], strict=True):
        np.testing.assert_allclose(_sample_places(output), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "name", [name if name in IN_FAST_TESTS else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_features_and_logits_equal_the_library_at_every_size(tmp_path, name):
    model = build_library_model(name)
    weights = read_weights(_write_library_files(tmp_path / "w", name))
    for size in ((128, 128), (224, 224), (97, 161)):
        images = _make_images(size)
        expected = compute_library_outputs(name, model, images)
        for output, reference in zip(_compute_outputs(weights, images), expected, strict=True):
            assert output.shape == reference.shape
            assert np.abs(output - reference).max() < 1e-4 * np.abs(reference).max()


@pytest.mark.parametrize("name", MODELS)
def test_round_trips_keep_every_bit(tmp_path, name):
    library, architecture = MODELS[name]
    source = _write_library_files(tmp_path / "w", name)
    write_weights(tmp_path / "own.safetensors", read_weights(source))
    own = read_weights(tmp_path / "own.safetensors")
    assert own.architecture == architecture
    write_weights(tmp_path / "back", own, library=library)
    written = load_file(tmp_path / "back" / "model.safetensors")
    for key, value in load_file(source / "model.safetensors").items():
        assert written.pop(key).tobytes() == value.tobytes()
    assert {key.rpartition(".")[2] for key in written} == {"num_batches_tracked"}
    assert {(value.shape, str(value.dtype)) for value in written.values()} == {((), "int64")}
    assert read_weights(tmp_path / "back").architecture == architecture


@pytest.fixture
def fine_tuned(weights):
    """Returns Keras's backbone of alpha 1 with a classifier of random weights, for images of 128 x 128."""
    backbone = read_weights(weights[1.0])
    model = backbone.architecture._replace(head="small", num_classes=7).build_model()
    kernel = np.random.default_rng(0).normal(0, 0.3, (1024, 7)).astype(np.float32)
    head = {"predictions": {"kernel": kernel, "bias": np.zeros(7, np.float32)}}
    variables = {**backbone.variables, "params": backbone.variables["params"] | head}
    return model, variables, Metadata((128, 128), (-1.0, 1.0), ("a", "b", "c", "d", "e", "f", "g"))


def _classify(fine_tuned, photographs):
    """Returns the images in the input range, and the logits of this project's model."""
    model, variables, metadata = fine_tuned
    pixels = np.concatenate(
        [batch.pixels for batch in read_images(list(map(str, photographs)), metadata.image_size, 50)]
    )
    images = np.asarray(scale_pixels(pixels, metadata.input_scaling))
    return images, np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images))


def _check_predictions(logits, expected):
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
    assert len(set(expected.argmax(1))) > 1


def test_transformers_loads_a_written_folder_and_predicts_the_same(tmp_path, fine_tuned, real_photographs):
    torch, transformers = import_torch(), pytest.importorskip("transformers")
    save_pretrained(tmp_path / "w", *fine_tuned, library="transformers")
    model, report = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "w", output_loading_info=True
    )
    assert not any(report.values()), report
    assert model.config.id2label == dict(enumerate("abcdefg"))
    images, expected = _classify(fine_tuned, real_photographs)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2))).logits.numpy()
    _check_predictions(logits, expected)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "w")
    values = processor(np.full((150, 200, 3), 255, np.uint8), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(values, np.ones((1, 3, 128, 128)), atol=1e-6)


def test_timm_loads_a_written_folder_and_predicts_the_same(tmp_path, fine_tuned, real_photographs):
    torch, timm = import_torch(), pytest.importorskip("timm")
    save_pretrained(tmp_path / "w", *fine_tuned, library="timm")
    arguments = json.loads((tmp_path / "w" / "config.json").read_text())["model_args"]
    assert arguments == {"pad_type": "same", "bn_eps": 0.001}
    images, expected = _classify(fine_tuned, real_photographs)
    path = str(tmp_path / "w" / "model.safetensors")
    for model in (
        timm.create_model("mobilenetv1_100", num_classes=7, checkpoint_path=path, **arguments),
        timm.create_model(f"local-dir:{tmp_path / 'w'}", pretrained=True),
    ):
        with torch.no_grad():
            logits = model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
        _check_predictions(logits, expected)
    assert model.pretrained_cfg["input_size"] == [3, 128, 128] or model.pretrained_cfg["input_size"] == (3, 128, 128)


def _make_smooth_image(shape):
    y, x = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    return np.uint8(255 * np.stack([x, y, (x + y) / 2], -1))


@pytest.mark.parametrize("resize", ["stretch", "crop"])
@pytest.mark.parametrize("size", [(128, 128), (64, 96)])
def test_timm_resizes_as_the_weights_record(tmp_path, fine_tuned, resize, size):
    import_torch()
    data = pytest.importorskip("timm.data")
    model, variables, metadata = fine_tuned
    metadata = replace(metadata, image_size=size, preprocessing=Preprocessing(resize))
    save_pretrained(tmp_path / "w", model, variables, metadata, library="timm")
    assert read_weights(tmp_path / "w").metadata.preprocessing == metadata.preprocessing
    config = json.loads((tmp_path / "w" / "config.json").read_text())["pretrained_cfg"]
    transform = data.create_transform(**data.resolve_data_config(pretrained_cfg=config))
    for shape in ((200, 300), (300, 200)):
        image = _make_smooth_image(shape)
        expected = scale_pixels(preprocess(image, size, metadata.preprocessing), metadata.input_scaling)
        values = transform(Image.fromarray(image)).numpy().transpose(1, 2, 0)
        np.testing.assert_allclose(values, expected, atol=0.03)  # four levels of 255


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_transformers_resizes_as_the_weights_record(tmp_path, fine_tuned, resize):
    import_torch()
    transformers = pytest.importorskip("transformers")
    model, variables, metadata = fine_tuned
    metadata = replace(metadata, preprocessing=Preprocessing(resize))
    save_pretrained(tmp_path / "w", model, variables, metadata, library="transformers")
    assert read_weights(tmp_path / "w").metadata.preprocessing == metadata.preprocessing
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "w")
    for shape in ((200, 300), (300, 200)):
        image = _make_smooth_image(shape)
        expected = scale_pixels(preprocess(image, (128, 128), metadata.preprocessing), metadata.input_scaling)
        [values] = processor(image, return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(values.transpose(1, 2, 0), expected, atol=0.03)  # four levels of 255


def test_a_model_of_transformers_without_a_classifier_is_read_without_its_prefix(tmp_path):
    name = "mobilenet_v1_0.25"
    tensors = {key.removeprefix("mobilenet_v1."): value for key, value in make_library_tensors(name).items()}
    save_file({key: value for key, value in tensors.items() if "classifier" not in key}, tmp_path / "w.safetensors")
    weights = read_weights(tmp_path / "w.safetensors")
    assert weights.architecture == MODELS[name][1]._replace(head=None, num_classes=0)
    complete = read_weights(_write_library_files(tmp_path / "w", name)).tensors
    assert all(value.tobytes() == complete[key].tobytes() for key, value in weights.tensors.items())
