"""Exports a trained run or weights to a file for another runtime, and verifies the file."""

import contextlib
import functools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.atomic_files import remove_leftovers, replace_with_description
from input_pipeline.errors import get_first_line
from input_pipeline.sources.isic import CLASS_TITLES
from mobilenet_jax.errors import ExportError, UserError, is_out_of_memory
from mobilenet_jax.evaluation.trained_run import TrainedRun, read_trained_run
from mobilenet_jax.export import quantization
from mobilenet_jax.export.formats import Format, Quantization, get_format
from mobilenet_jax.export.images import read_calibration_images, read_verification_images, warn_of_few_images
from mobilenet_jax.export.network import Network
from mobilenet_jax.export.verification import verify
from mobilenet_jax.weights.load import is_workdir, read_weights
from mobilenet_jax.weights.metadata import distinguish_names, format_input_scaling
from mobilenet_jax.weights.orbax import CheckpointName
from mobilenet_jax.weights.weights_file import compute_sha256, get_content_size

DISCLAIMER = "Not a medical device. For research and teaching only; not for decisions about patients."
_VERIFICATION_IMAGES = 32
_LARGE_HEAD = 10_000_000  # parameters
_SAVED_MODEL_NAMES = {"saved_model.pb", "fingerprint.pb", "variables", "assets"}
_logger = logging.getLogger(__name__)


def export_model(
    model: str | Path,
    out: Path,
    *,
    quantize: Quantization = "none",
    raw: bool = False,
    checkpoint: CheckpointName = "best",
    calibration_images: int = 200,
    data: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Writes a network for another runtime, and `OUT.json`, which describes it.

    Nothing appears under the name `out` before the file has run in its own runtime and agrees with the JAX model.

    Args:
        model: the workdir of a run, or weights in any format that `read_weights` reads, with or without a classifier.
        out: the file or folder; its suffix determines the format, see `formats.FORMATS`.
        quantize: `"float16"` or `"int8"` for `.tflite` files.
        raw: whether the input is float32 and the output logits, see `Network`.
        checkpoint: the checkpoint of a workdir.
        calibration_images: the number of training images that int8 kernels and ranges are fitted to.
        data: see `read_calibration_images`.
        force: whether to overwrite an existing file or folder.

    Returns:
        The content of `OUT.json`: classes, input, output, format, operations, verification, origin and license.

    Raises:
        ExportError: the destination or an option is not valid, a package is missing, or the file differs from the
            model.
        DataError, EvaluationError, WeightsError: images or weights cannot be read.
        OSError: the disk is full or fails.
    """
    chosen = get_format(out)
    check_destination(out, force=force)
    if quantize != "none" and chosen.module != "litert":
        raise ExportError(f"--quantize={quantize} applies to .tflite files only, not to {out.name}")
    run = read_trained_run(Path(model), checkpoint) if is_workdir(model) else None
    network = Network(
        run.weights if run else read_weights(model, checkpoint=checkpoint), raw, plain=chosen.module == "litert"
    )
    if quantize == "int8":
        quantization.check_preprocessing(network)
    _warn_of_large_head(network)
    module = chosen.load_module()
    write, calibration_count = module.write, None
    if quantize == "int8":
        typical = read_calibration_images(run, data, network, calibration_images)
        warn_of_few_images(typical)
        write, calibration_count = functools.partial(quantization.write_int8, pixels=typical), len(typical)
    pixels, image_source = read_verification_images(run, data, network, _VERIFICATION_IMAGES)
    if quantize == "float16":
        write = functools.partial(quantization.write_float16, pixels=_read_typical_images(network, run, data, pixels))
    remove_leftovers(Path(os.path.realpath(out)).parent)
    with replace_with_description(out, get_description_path(out)) as (unfinished, unfinished_description):
        with _report_conversion(chosen):
            write(network, unfinished)
        verification = verify(network, unfinished, pixels)
        verification.check(quantize)
        operations = module.count_operations(unfinished)
        description = _describe(network, run, unfinished, quantize, operations)
        description["calibration_images"] = calibration_count
        description["verification"] = {**asdict(verification), "image_source": image_source}
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        unfinished_description.write_text(text, encoding="utf-8")
    return description


@contextlib.contextmanager
def _report_conversion(chosen: Format) -> Iterator[None]:
    """Turns the errors of a converter into an ExportError; a lack of memory has a message of its own."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise ExportError(f"cannot convert the network to {chosen.name} ({get_first_line(error)})") from error


def _read_typical_images(
    network: Network, run: TrainedRun | None, data: str | None, verification_pixels: np.ndarray
) -> np.ndarray:
    """Reads training images, as many as for the verification; returns the images of the verification if none exist."""
    try:
        return read_calibration_images(run, data, network, len(verification_pixels))
    except (UserError, OSError) as error:
        _logger.warning("the kernels are rounded with the verification images instead of training images: %s", error)
        return verification_pixels


def get_description_path(out: Path) -> Path:
    """Returns the JSON file that describes an exported file."""
    return out.with_name(f"{out.name}.json")


def check_destination(out: Path, *, force: bool) -> None:
    """Validates a destination before the work begins.

    Raises:
        ExportError: its folder does not exist or cannot be written, or something exists under its name or that of its
            description.
    """
    target = Path(os.path.realpath(out))
    check_parent(target)
    description = get_description_path(out)
    if os.path.lexists(description) and not _is_description(description):
        raise ExportError(f"{description} exists and does not describe an exported network: choose another name")
    if target.suffix != out.suffix:
        raise ExportError(f"{out} is a link to {target}, which has another suffix: choose another name")
    if not os.path.lexists(out):
        if os.path.lexists(description) and not force:
            raise ExportError(f"{description} exists: choose another name, or overwrite it with --force")
        return
    is_folder = not out.suffix
    if out.is_dir() != is_folder or (is_folder and not _is_saved_model(out)):
        raise ExportError(f"{out} exists and is not an exported network: choose another name")
    if not force:
        raise ExportError(f"{out} exists: choose another name, or overwrite it with --force")


def _is_description(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"notice", "sha256", "verification"} <= content.keys()


def _is_saved_model(folder: Path) -> bool:
    """Returns whether a folder holds a SavedModel, and nothing else that would be lost with it."""
    names = {path.name for path in folder.iterdir()}
    return "saved_model.pb" in names and names <= _SAVED_MODEL_NAMES


def check_parent(out: Path) -> None:
    """Validates the folder that a file or folder will be written to.

    Raises:
        ExportError: it does not exist or cannot be written.
    """
    if not out.parent.is_dir():
        raise ExportError(f"no such folder: {out.parent}")
    if not os.access(out.parent, os.W_OK):
        raise ExportError(f"cannot write to {out.parent}: choose another folder")


def _warn_of_large_head(network: Network) -> None:
    sizes = {name: tensor.size for name, tensor in network.weights.tensors.items()}
    head = sum(n for name, n in sizes.items() if name.startswith(("params.dense_", "params.predictions")))
    if head > _LARGE_HEAD:
        _logger.warning(
            "%.0f of the %.0f million parameters belong to the head %r: train a network with the head 'small', see "
            "configs/phone.py",
            head / 1e6,
            sum(sizes.values()) / 1e6,
            network.weights.architecture.head,
        )


def _describe(
    network: Network,
    run: TrainedRun | None,
    path: Path,
    quantize: Quantization,
    operations: Counter[str],
) -> dict[str, Any]:
    """Returns everything that an application needs to know about an exported file."""
    weights, chosen = network.weights, get_format(path)
    data, data_license = run.describe_training_data() if run else ("not known", "not known")
    classes = weights.metadata.classes
    titles = [CLASS_TITLES.get(name) for name in classes or ()]
    values = f"RGB scaled to {format_input_scaling(network.input_scaling)}" if network.raw else "RGB, 0 to 255"
    return {
        "notice": DISCLAIMER,
        "classes": classes and distinguish_names(classes),
        "class_titles": titles if titles and all(titles) else None,
        "input": {
            "name": "image",
            "shape": network.input_shape,
            "type": network.input_type.__name__,
            "values": values,
            **({"scaling": network.input_scaling} if network.raw else {}),
            **network.preprocessing._asdict(),
            "preprocessing": network.preprocessing.describe(network.image_size),
        },
        "output": {"name": network.output, "type": "float32", "prior": run.describe_prior() if run else None},
        "format": chosen.name,
        "quantization": quantize,
        "bytes": get_content_size(path),
        "sha256": compute_sha256(path),
        "operations": dict(sorted(operations.items())),
        "runtime": chosen.describe_runtime(),
        "alpha": weights.architecture.alpha,
        "head": weights.architecture.head,
        "source": weights.metadata.source,
        "training_data": data,
        "license": data_license,
        "version": version("mobilenet-jax"),
    }
