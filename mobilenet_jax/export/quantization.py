"""Quantized LiteRT files. The only module that uses LiteRT's quantizer."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from input_pipeline.preprocessing import InputScaling
from mobilenet_jax.errors import ExportError
from mobilenet_jax.export import litert
from mobilenet_jax.export.bias_correction import correct_biases
from mobilenet_jax.export.equalization import equalize_channels
from mobilenet_jax.export.rounding import round_kernels

if TYPE_CHECKING:
    import jax

    from mobilenet_jax.export.network import Network

_AT_THE_BORDER = ("QUANTIZE", "DEQUANTIZE")  # convert the input and the output
_PROBABILITY_LEVELS = 256  # half of one of them is rounded to 0
_INTEGERS = {"INT8", "UINT8", "INT32"}  # the biases are of 32 bits


def write_float16(network: "Network", path: Path, pixels: np.ndarray) -> None:
    """Writes a network with weights of 16 bits. They are expanded when the file is loaded; it computes in float32.

    Args:
        network: the network.
        path: the file.
        pixels: uint8 `[n, height, width, 3]`: images that are typical for the use of the network. Its kernels are
            rounded and its biases corrected on them, see the modules of these names.
    """
    from litert_quantizer import algorithm_manager, qtyping

    fast = replace(network, plain=False)
    kernels = round_kernels(fast, pixels, "float16")
    network = replace(network, params=correct_biases(fast, kernels, pixels, round_activations=False))
    quantizer = _make_quantizer(litert.convert(network.apply, network, network.input_type))
    for operation in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        quantizer.add_weight_only_config(
            ".*",
            qtyping.TFLOperationName[operation],
            num_bits=16,
            granularity=qtyping.QuantGranularity.TENSORWISE,
            algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING,
        )
    path.write_bytes(quantizer.quantize(enable_progress_report=False).quantized_model)


def write_int8(network: "Network", path: Path, pixels: np.ndarray) -> None:
    """Writes a network whose operations are all in 8-bit integers.

    First, its channels are equalized, its kernels rounded and its biases corrected, see the modules of these names.
    Low logits are raised, see `find_lowest_logit`. Weights have one scale per output channel, activations one per
    tensor (Jacob et al. 2018, arXiv:1712.05877).

    Args:
        network: the network.
        path: the file.
        pixels: uint8 `[n, height, width, 3]`: images that are typical for the use of the network.

    Raises:
        ExportError: an operation could not be quantized.
    """
    from litert_quantizer import algorithm_manager, qtyping

    grid = InputGrid.for_scaling(network.input_scaling)
    if network.raw:
        grid = grid._replace(offset=0.0)  # callers pass the input of the network
    fast = replace(network, plain=False)  # computes the same; the plain forms are slow in JAX
    fast = replace(fast, params=equalize_channels(fast, pixels))
    params = correct_biases(fast, round_kernels(fast, pixels, "int8"), pixels, round_activations=True)
    network = replace(network, params=params)
    content = litert.convert(_shift_input(network, grid.offset), network, np.float32)
    quantizer = _make_quantizer(content)
    quantizer.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    for border in ("INPUT", "OUTPUT"):
        quantizer.update_quantization_recipe(
            ".*", qtyping.TFLOperationName[border], algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
        )
    images = [{"image": grid.to_values(image[None])} for image in pixels]
    with _silence():
        ranges = _measure_ranges(content, quantizer, images)
        ranges[f"{litert.SIGNATURE}_image"] = {  # that of all pixel values, not only of those in the images
            name: grid.to_values(np.full((1, 1, 1, 1), level)) for name, level in (("min", 0), ("max", 255))
        }
        if network.output == "probabilities":
            lowest = find_lowest_logit(replace(network, raw=True).compute_reference(pixels))
            for name in litert.find_logits(content):
                ranges[name]["min"] = np.maximum(ranges[name]["min"], np.float32(lowest))
        content = bytes(quantizer.quantize(ranges, enable_progress_report=False).quantized_model)
    check_integers(content)
    path.write_bytes(content if network.raw else litert.accept_pixels(content, grid.step, grid.zero_point))


def find_lowest_logit(logits: np.ndarray) -> float:
    """Returns the logit that lower ones can be raised to: the probabilities of all others keep their 8-bit values.

    The raised classes together have at most half a level. Logits of implausible classes are far below the others, and
    would take most of the 256 levels.

    Args:
        logits: float32 `[n, classes]`, of typical images.
    """
    return float(logits.max(1).min() - np.log(2 * _PROBABILITY_LEVELS * logits.shape[1]))


class InputGrid(NamedTuple):
    """The values of an 8-bit input: `step * (pixel - zero_point)`, so that 0, the value of the padding, is one of them.

    The input of the network is that value plus `offset`, which is at most half a step if the input range contains 0.
    """

    step: float
    zero_point: int
    offset: float

    @classmethod
    def for_scaling(cls, input_scaling: InputScaling) -> "InputGrid":
        """Returns the grid of pixel values that are scaled to a range.

        Raises:
            ExportError: the channels have ranges of their own.
        """
        low, high = input_scaling
        if isinstance(low, tuple) or isinstance(high, tuple):
            raise ExportError("int8 needs one input scaling for all channels: export float16")
        step = (high - low) / 255
        zero_point = min(max(round(-low / step), 0), 255)
        return cls(step, zero_point, low + step * zero_point)

    def to_values(self, pixels: np.ndarray) -> np.ndarray:
        """Maps pixels of any shape to values, float32."""
        return np.float32(self.step) * (pixels.astype(np.float32) - self.zero_point)


def check_preprocessing(network: "Network") -> None:
    """Checks that integers can express the preprocessing of a network.

    Raises:
        ExportError: they cannot.
    """
    if network.removes_color_cast:
        raise ExportError(
            "int8 cannot express the removal of the color cast (color_constancy is shades_of_gray): use "
            "--quantize=float16"
        )
    InputGrid.for_scaling(network.input_scaling)


def check_integers(content: bytes) -> None:
    """Checks that all operations of a file are in integers, except the conversions of its input and its output.

    Raises:
        ExportError: one is not.
    """
    operations = litert.list_operations(content)
    inner = operations[operations[0].name in _AT_THE_BORDER : len(operations) - (operations[-1].name in _AT_THE_BORDER)]
    left = sorted({operation.name for operation in inner if not operation.types <= _INTEGERS})
    if left:
        raise ExportError(f"not a full-integer network: {', '.join(left)} could not be quantized")


def _shift_input(network: "Network", offset: float) -> "Callable[[jax.Array], jax.Array]":
    """Returns the network as a function of its input minus `offset`: the first convolution is linear.

    At the padded border the result is not exact: there it has an error of `offset`, at most half a level of a pixel if
    the input range contains 0.
    """
    model, variables = network.fold()
    params = dict(variables["params"])
    kernel, bias = params["conv1"]["kernel"], params["conv1_bn"]["bias"]
    params["conv1_bn"] = {"bias": bias + np.float32(offset) * kernel.sum((0, 1, 2))}
    return lambda image: network.compute_output(model, {"params": params}, image)


def _measure_ranges(content: bytes, quantizer: Any, images: list[dict[str, np.ndarray]]) -> Any:
    """Measures the smallest and the largest value of each tensor over all images.

    By default the quantizer averages these values over the images, so that half of the images exceed the range.
    """
    from litert_quantizer import calibrator, recipe_manager
    from litert_quantizer.utils import qsv_utils

    recipe = recipe_manager.RecipeManager()
    recipe.load_quantization_recipe(quantizer.get_quantization_recipe())
    calibration = calibrator.Calibrator(content, qsv_update_func=qsv_utils.min_max_update)
    calibration.calibrate({litert.SIGNATURE: images}, recipe)
    return calibration.get_model_qsvs()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hides the quantizer's progress bars, and a warning about the memory of the calibration."""
    with open(os.devnull, "w") as sink, contextlib.redirect_stderr(sink), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _make_quantizer(content: bytes) -> Any:
    from litert_quantizer import Quantizer

    return Quantizer(content)
