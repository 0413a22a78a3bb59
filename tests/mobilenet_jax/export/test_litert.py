from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from input_pipeline.preprocessing import Preprocessing
from mobilenet_jax.errors import ExportError
from mobilenet_jax.export import litert, onnx_graph, quantization, stablehlo, verification
from mobilenet_jax.export.network import Network
from mobilenet_jax.weights.metadata import make_input_scaling
from tests.helpers.sensitive_weights import make_images, make_sensitive_weights

pytest.importorskip("litert_converter", reason="needs pip install -e '.[export]'")
pytest.importorskip("onnxruntime", reason="needs pip install -e '.[export]'")

LAYERS = Counter(CONV_2D=14, DEPTHWISE_CONV_2D=13)
HEADS = {
    "small": Counter(MEAN=1, FULLY_CONNECTED=1),
    "imagenet": Counter(MEAN=1, CONV_2D=1, RESHAPE=1),
    "article": Counter(RESHAPE=1, FULLY_CONNECTED=3),
    "article_bn": Counter(RESHAPE=1, FULLY_CONNECTED=3),
    None: Counter(),
}
SCALINGS = [(-1.0, 1.0), (0.0, 1.0), (-2.1, 2.6), (-123.7, 131.3)]


def run(module, path, inputs):
    function = module.load(path, 1)
    return np.concatenate([function(image[None]) for image in inputs])


def compute_difference(outputs, expected):
    return np.abs(outputs - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("head", "raw"),
    [
        *(("small", raw) for raw in (False, True)),
        *((head, False) for head in ("imagenet", "article_bn")),
        *(pytest.param(head, False, marks=pytest.mark.slow) for head in ("article", None)),
        *(pytest.param(head, True, marks=pytest.mark.slow) for head in HEADS if head != "small"),
    ],
)
def test_files_compute_what_the_jax_model_computes(head, raw, tmp_path):
    """LiteRT has the fewest operations possible: batch normalization, ReLU6 and padding are part of convolutions."""
    network = Network(make_sensitive_weights(head, (64, 96)), raw, plain=True)
    pixels = make_images(4, (64, 96))
    expected, inputs = network.compute_reference(pixels), network.prepare(pixels)
    assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected).max()
    for module, name in ((litert, "a.tflite"), (onnx_graph, "a.onnx"), (stablehlo, "a.mlir")):
        module.write(network, tmp_path / name)
        outputs = run(module, tmp_path / name, inputs)
        assert outputs.dtype == np.float32
        assert outputs.shape == expected.shape
        assert compute_difference(outputs, expected) < 1e-4
    scaling = Counter() if raw else Counter(CAST=1, MUL=1, ADD=1)
    softmax = Counter(SOFTMAX=int(head is not None and not raw))
    assert litert.count_operations(tmp_path / "a.tflite") == LAYERS + HEADS[head] + scaling + softmax


@pytest.mark.parametrize("size", [(32, 32), pytest.param((64, 96), marks=pytest.mark.slow)])
def test_files_remove_the_color_cast_as_the_jax_model_does(size, tmp_path):
    weights = make_sensitive_weights("small", size, preprocessing=Preprocessing("stretch", "shades_of_gray"))
    network, unaware = Network(weights, plain=True), Network(make_sensitive_weights("small", size))
    pixels = verification._select_unambiguous(np.uint8(make_images(16, size) * np.array([1, 0.7, 0.5])))
    assert len(pixels) > 8
    expected = network.compute_reference(pixels)
    assert np.abs(expected - unaware.compute_reference(pixels)).max() > 0.1
    for module, name in ((litert, "a.tflite"), (onnx_graph, "a.onnx"), (stablehlo, "a.mlir")):
        module.write(network, tmp_path / name)
        assert np.abs(run(module, tmp_path / name, pixels) - expected).max() < 1e-4
    removal = Counter(MUL=5, POW=1, MAXIMUM=1, DIV=1, ROUND=1, MINIMUM=1)
    scaling, softmax, means = Counter(CAST=1, MUL=1, ADD=1), Counter(SOFTMAX=1), Counter(MEAN=9, SUM=9)
    operations = LAYERS + HEADS["small"] + scaling + softmax + removal
    assert litert.count_operations(tmp_path / "a.tflite") - means == operations - means
    quantization.write_float16(network, tmp_path / "float16", pixels)
    assert np.abs(run(litert, tmp_path / "float16", pixels) - expected).max() < 0.01
    raw = Network(weights, raw=True)
    assert (raw.preprocessing, network.preprocessing) == (weights.metadata.preprocessing, Preprocessing())
    np.testing.assert_array_equal(
        raw.compute_reference(pixels), Network(unaware.weights, True).compute_reference(pixels)
    )


@pytest.mark.parametrize("size", [(75, 50), (97, 161)])
def test_files_of_odd_sizes_compute_what_the_jax_model_computes(size, tmp_path):
    network = Network(make_sensitive_weights("small", size), plain=True)
    pixels = make_images(3, size)
    for module in (litert, onnx_graph):
        module.write(network, tmp_path / "a")
        assert compute_difference(run(module, tmp_path / "a", pixels), network.compute_reference(pixels)) < 1e-4


@pytest.mark.parametrize("size", [pytest.param((64, 64), marks=pytest.mark.slow), (75, 50)])
def test_files_of_models_of_other_libraries_compute_what_the_jax_model_computes(size, tmp_path):
    scaling = make_input_scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    variant = {"conv_head": True, "batch_norm_epsilon": 1e-5, "padding": "symmetric"}
    weights = make_sensitive_weights("small", size, alpha=0.125, input_scaling=scaling, **variant)
    network, pixels = Network(weights, plain=True), make_images(16, size)
    for module in (litert, onnx_graph):
        module.write(network, tmp_path / "a")
        assert compute_difference(run(module, tmp_path / "a", pixels), network.compute_reference(pixels)) < 1e-4
    quantization.write_float16(network, tmp_path / "float16", pixels)
    assert compute_difference(run(litert, tmp_path / "float16", pixels), network.compute_reference(pixels)) < 0.05
    with pytest.raises(ExportError, match="int8 needs one input scaling for all channels"):
        quantization.write_int8(network, tmp_path / "int8", pixels)


@pytest.mark.parametrize("scaling", [(-1.0, 1.0), pytest.param((0.0, 1.0), marks=pytest.mark.slow)])
def test_quantized_files_are_smaller_and_close_to_the_jax_model(scaling, tmp_path):
    network = Network(make_sensitive_weights("small", (64, 64), input_scaling=scaling), plain=True)
    pixels = make_images(24, (64, 64))
    expected = network.compute_reference(pixels)
    litert.write(network, tmp_path / "float32")
    quantization.write_float16(network, tmp_path / "float16", pixels[:16])
    quantization.write_int8(network, tmp_path / "int8", pixels[:16])
    sizes = [(tmp_path / name).stat().st_size for name in ("float32", "float16", "int8")]
    assert sizes[1] < 0.53 * sizes[0]
    assert sizes[2] < 0.36 * sizes[0]
    assert np.abs(run(litert, tmp_path / "float16", pixels) - expected).max() < 0.01
    outputs = run(litert, tmp_path / "int8", pixels)
    assert np.abs(outputs - expected).mean() < 0.03
    assert (outputs.argmax(1) == expected.argmax(1)).mean() > 0.8


@pytest.mark.parametrize("raw", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_int8_files_compute_in_integers_only(raw, tmp_path):
    network = Network(make_sensitive_weights("article", (32, 32)), raw, plain=True)
    quantization.write_int8(network, tmp_path / "a", make_images(8, (32, 32)))
    *first, last = litert.list_operations((tmp_path / "a").read_bytes())
    if not raw:
        assert first.pop(0) == ("DEQUANTIZE", {"UINT8", "FLOAT32"})
    quantize, *inner = first
    assert quantize == ("QUANTIZE", {"FLOAT32", "INT8"})
    assert last == ("DEQUANTIZE", {"INT8", "FLOAT32"})
    assert frozenset.union(*(operation.types for operation in inner)) == {"INT8", "INT32"}


@pytest.mark.parametrize("scaling", [pytest.param(SCALINGS[0], marks=pytest.mark.slow), SCALINGS[3]])
def test_the_first_convolution_of_an_int8_file_reads_the_exact_pixels(scaling, tmp_path):
    """They pass through float32, which must not change any of the 256 values."""
    from ai_edge_litert.tools import flatbuffer_utils

    network = Network(make_sensitive_weights("small", (32, 32), input_scaling=scaling), plain=True)
    quantization.write_int8(network, tmp_path / "a", make_images(8, (32, 32)))
    model = flatbuffer_utils.read_model(str(tmp_path / "a"))
    [graph] = model.subgraphs
    graph.outputs, model.signatureDefs = [graph.operators[2].inputs[0]], []  # its input
    flatbuffer_utils.write_model(model, str(tmp_path / "cut"))
    pixels = np.random.default_rng(0).permutation(np.arange(32 * 32 * 3) % 256).reshape(1, 32, 32, 3).astype(np.uint8)
    np.testing.assert_array_equal(litert.load(tmp_path / "cut", 1)(pixels), pixels.astype(int) - 128)


@pytest.mark.parametrize("classes", [2, 7, 1000])
def test_low_logits_are_raised_where_they_do_not_change_8_bit_probabilities(classes):
    rng = np.random.default_rng(0)
    logits = rng.uniform(-30, 0, (50, classes))
    logits[np.arange(50), rng.integers(0, classes, 50)] = rng.uniform(2, 20, 50)
    lowest = quantization.find_lowest_logit(logits)
    assert -12 < lowest < 0
    raised = [np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (logits, np.maximum(logits, lowest))]
    assert np.abs(raised[0] - raised[1]).max() < 1 / 512


@pytest.mark.parametrize(
    ("head", "layer"), [("small", "predictions"), pytest.param("imagenet", "conv_preds", marks=pytest.mark.slow)]
)
def test_int8_logits_have_the_range_that_probabilities_need(head, layer, tmp_path):
    from ai_edge_litert.tools import flatbuffer_utils

    weights = make_sensitive_weights(head, (32, 32))
    kernel = f"params.{layer}.kernel"
    weights = replace(weights, tensors={**weights.tensors, kernel: 8 * weights.tensors[kernel]})
    network, pixels = Network(weights, plain=True), make_images(8, (32, 32))
    logits = Network(weights, raw=True).compute_reference(pixels)
    lowest = min(quantization.find_lowest_logit(logits), 0)
    assert logits.min() < lowest - 10
    quantization.write_int8(network, tmp_path / "a", pixels)
    [graph] = flatbuffer_utils.read_model(str(tmp_path / "a")).subgraphs
    softmax = graph.operators[-2]
    [scale] = graph.tensors[softmax.inputs[0]].quantization.scale
    assert scale == pytest.approx((logits.max() - lowest) / 255, rel=0.1)


def test_an_operation_left_in_float_is_an_error(tmp_path):
    network = Network(make_sensitive_weights("small", (32, 32)), plain=True)
    litert.write(network, tmp_path / "a")
    with pytest.raises(ExportError, match=r"not a full-integer network: ADD, CAST, CONV_2D, .* could not be quantized"):
        quantization.check_integers((tmp_path / "a").read_bytes())


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_grid_of_an_int8_input_is_that_of_the_pixels(scaling):
    grid, pixels = quantization.InputGrid.for_scaling(scaling), np.arange(256, dtype=np.uint8)
    low, high = scaling
    scaled = low + (high - low) / 255 * pixels
    np.testing.assert_allclose(grid.to_values(pixels) + grid.offset, scaled, atol=1e-6 * (high - low))
    assert abs(grid.offset) <= grid.step / 2
    assert grid.to_values(np.array([grid.zero_point])) == [0]


def test_int8_files_tell_pixels_apart_that_are_brighter_than_those_of_the_calibration(tmp_path):
    network = Network(make_sensitive_weights("small", (64, 64)), plain=True)
    pixels = make_images(8, (64, 64))
    quantization.write_int8(network, tmp_path / "a", np.minimum(pixels, 180))
    bright, brighter = run(litert, tmp_path / "a", np.stack([np.maximum(pixels[0], level) for level in (190, 240)]))
    assert np.abs(bright - brighter).max() > 0.02
