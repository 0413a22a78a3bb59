"""Runs an exported file with its own runtime and compares it with the JAX model."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from input_pipeline.image_ops import compute_color_gains
from mobilenet_jax.errors import ExportError
from mobilenet_jax.export.formats import Quantization
from mobilenet_jax.export.network import Network, Output

THREADS = (1, 2)
_ROUNDING = 1e-4  # levels of 255; three times the largest difference between runtimes before they round
_Limits = dict[Quantization, tuple[float, float]]  # limits of the largest and the mean difference
_PROBABILITY_LIMITS: _Limits = {"none": (1e-4, 1e-5), "float16": (1e-2, 1e-3), "int8": (0.5, 0.05)}
# The mean over 1,000 classes is below 0.002 whatever the probabilities are.
_VARIATION_LIMITS: dict[Quantization, float] = {"none": 2e-5, "float16": 3e-3, "int8": 0.15}
# Logits and features amplify rounding. Their differences are divided by the largest absolute value of an output.
_OTHER_LIMITS: _Limits = {"none": (5e-3, 1e-4), "float16": (0.1, 1e-2), "int8": (1, 0.2)}
# Most features are small or 0: outputs of zeros differ by less than the limits above.
_FEATURE_LIMITS: dict[Quantization, float] = {"none": 5e-3, "float16": 0.05, "int8": 0.5}
_TRAIN = "train longer, or on more images: a network that has learned little can amplify rounding"
_REMEDIES: dict[Quantization, str] = {
    "none": _TRAIN, "float16": f"use --quantize=none, or {_TRAIN}", "int8": f"use --quantize=float16, or {_TRAIN}"
}  # fmt: skip


@dataclass(frozen=True)
class Verification:
    """The comparison of an exported file with the JAX model.

    Attributes:
        output: the kind of the compared outputs.
        images: the number of images.
        largest_difference: of a probability, or of another output divided by the largest absolute value of an output.
        mean_difference: the mean of all of these differences, with all numbers of threads.
        total_variation: half the sum of the differences of an image's probabilities, on average; of logits, that of
            their softmax; None for features.
        relative_error: the norm of the differences of features by the norm of the features; None for other outputs.
        top_class_agreement: the fraction of the outputs whose most probable class is the same; None for features.
        milliseconds: per image, by the number of threads.
    """

    output: Output
    images: int
    largest_difference: float
    mean_difference: float
    total_variation: float | None
    relative_error: float | None
    top_class_agreement: float | None
    milliseconds: dict[int, float]

    def check(self, quantization: Quantization) -> None:
        """Compares the differences with the limits for a quantization.

        Raises:
            ExportError: one is larger, or not a number.
        """
        limits = _PROBABILITY_LIMITS if self.output == "probabilities" else _OTHER_LIMITS
        largest, mean = limits[quantization]
        if not (self.largest_difference <= largest and self.mean_difference <= mean):
            raise ExportError(
                f"the exported network differs from the JAX model by up to {self.largest_difference:.2g} (limit "
                f"{largest:g}), on average {self.mean_difference:.2g} (limit {mean:g}): nothing was written; "
                f"{_REMEDIES[quantization]}"
            )
        limit = _VARIATION_LIMITS[quantization]
        if self.total_variation is not None and not self.total_variation <= limit:
            raise ExportError(
                f"the probabilities of the exported network have a total variation distance of "
                f"{self.total_variation:.2g} from those of the JAX model (limit {limit:g}): nothing was written; "
                f"{_REMEDIES[quantization]}"
            )
        limit = _FEATURE_LIMITS[quantization]
        if self.relative_error is not None and not self.relative_error <= limit:
            raise ExportError(
                f"the features of the exported network have a relative error of {self.relative_error:.2g} (limit "
                f"{limit:g}): nothing was written; {_REMEDIES[quantization]}"
            )


def verify(network: Network, path: Path, pixels: np.ndarray) -> Verification:
    """Runs a file with its own runtime, with one and with two threads, and compares its outputs.

    Args:
        network: the network that the file holds.
        path: the file.
        pixels: uint8 `[n, height, width, 3]`.

    Raises:
        ExportError: the runtime fails, or returns another shape.
    """
    if network.removes_color_cast:
        pixels = _select_unambiguous(pixels)
    expected, inputs = network.compute_reference(pixels), network.prepare(pixels)
    runs = {threads: _run(path, threads, inputs) for threads in THREADS}
    for outputs, _ in runs.values():
        if outputs.shape != expected.shape:
            raise ExportError(f"the exported network returns {outputs.shape}, the JAX model {expected.shape}")
    outputs = np.stack([outputs for outputs, _ in runs.values()])
    scale = 1.0 if network.output == "probabilities" else float(np.abs(expected).max())
    differences = np.abs(outputs - expected) / scale
    variation = relative_error = agreement = None
    if network.output == "features":
        error = np.linalg.norm((outputs - expected).ravel()) / np.sqrt(len(runs))
        relative_error = float(error / np.linalg.norm(expected))
    else:
        actual, correct = (x if network.output == "probabilities" else softmax(x, -1) for x in (outputs, expected))
        variation = float(np.abs(actual - correct).sum(2).mean() / 2)
        agreement = float((outputs.argmax(2) == expected.argmax(1)).mean())
    return Verification(
        network.output,
        len(pixels),
        float(differences.max()),
        float(differences.mean()),
        variation,
        relative_error,
        agreement,
        {threads: milliseconds for threads, (_, milliseconds) in runs.items()},
    )


def _select_unambiguous(pixels: np.ndarray) -> np.ndarray:
    """Selects the images in which all runtimes round to the same levels when they remove the color cast.

    A value that is nearly halfway between two levels may be rounded to either, in all pixels that have it. If every
    image has one, the image in which it is the farthest from the middle is selected.
    """
    margins = np.array([np.abs((image * compute_color_gains(image)) % 1 - 0.5).min() for image in pixels])
    return pixels[margins >= min(_ROUNDING, margins.max())]


def _run(path: Path, threads: int, inputs: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the outputs for all inputs, and the milliseconds per input."""
    with tempfile.TemporaryDirectory() as folder:
        inputs_file, outputs_file = Path(folder) / "inputs.npy", Path(folder) / "outputs.npy"
        try:
            np.save(inputs_file, inputs)
        except OSError as error:
            raise ExportError(f"cannot write the images of the verification to {folder} ({error})") from error
        worker = "mobilenet_jax.export.runtime_worker"
        command = [sys.executable, "-P", "-m", worker, str(path), str(threads), str(inputs_file), str(outputs_file)]
        on_cpu = os.environ | {"JAX_PLATFORMS": "cpu"}  # as the other runtimes
        result = subprocess.run(command, capture_output=True, text=True, env=on_cpu)
        if result.returncode:
            lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
            raise ExportError(f"its runtime cannot run the exported network: {lines[-1][:400]}")
        return np.load(outputs_file), float(result.stdout.split()[-1])
