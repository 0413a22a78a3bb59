"""`mobilenet-jax export`: writes a trained model as a file for phones, browsers and other runtimes."""

import argparse
from os.path import expanduser
from typing import Any, get_args

from mobilenet_jax.cli.arguments import Subparsers, add_checkpoint_option, parse_integer, parse_model, parse_path
from mobilenet_jax.export.formats import Quantization

_MAX_LISTED = 8  # types of operations


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "export",
        help="export a model for phones, browsers and other runtimes",
        description="Writes NAME.tflite (LiteRT), NAME.onnx, NAME.mlir (StableHLO), or, to a name without a suffix, a "
        "TensorFlow SavedModel, and a description, OUT.json. The input is a uint8 RGB image, the output probabilities. "
        "The file is run with its own runtime and compared with the JAX model before it appears under its name. "
        "Requires an extra (pip install -e '.[export]').",
    )
    parser.add_argument("model", metavar="MODEL", type=parse_model, help="a workdir, or weights that `convert` reads")
    parser.add_argument(
        "out", metavar="OUT", type=parse_path, help="file or folder to write; its name determines the format"
    )
    parser.add_argument(
        "--quantize", choices=get_args(Quantization), default="none",
        help="for .tflite; float16: weights of half the size; int8: all operations in integers (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--raw", action="store_true",
        help="float32 input, scaled as in training, and logits instead of pixels and probabilities",
    )  # fmt: skip
    parser.add_argument(
        "--calibration-images", type=parse_integer(1), default=200, metavar="N",
        help="training images to calibrate int8 with (default: 200)",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=expanduser, metavar="DIR",
        help="folder of the images of the run, or their table for data.source=csv (default: where they were in "
        "training); for weights, any folder of images, which int8 requires",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="overwrite an existing file or folder")
    add_checkpoint_option(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Exports, and prints the results of the verification."""
    from mobilenet_jax.export.export import export_model

    description = export_model(
        args.model,
        args.out,
        quantize=args.quantize,
        raw=args.raw,
        checkpoint=args.checkpoint,
        calibration_images=args.calibration_images,
        data=args.data,
        force=args.force,
    )
    print(args.out)
    print(_format_description(description))


def _format_description(description: dict[str, Any]) -> str:
    verification = description["verification"]
    operations = sorted(description["operations"].items(), key=lambda item: -item[1])
    listed = ", ".join(f"{count} {name}" for name, count in operations[:_MAX_LISTED])
    more = len(operations) - _MAX_LISTED
    agreement = verification["top_class_agreement"]
    lines = [
        ("size", f"{description['bytes'] / 1e6:.2f} MB"),
        ("operations", f"{sum(n for _, n in operations)}: {listed}" + (f" and {more} more types" if more > 0 else "")),
        ("runtime", description["runtime"]),
        ("images compared", f"{verification['images']} ({verification['image_source']})"),
        ("largest difference", f"{verification['largest_difference']:.2g}"),
        ("mean difference", f"{verification['mean_difference']:.2g}"),
        ("same top class", "not applicable" if agreement is None else f"{agreement:.1%}"),
        *((f"time, {n} thread{'s' * (n > 1)}", f"{ms:.2f} ms/image") for n, ms in verification["milliseconds"].items()),
    ]
    return "\n".join(f"{label:<20}{value}" for label, value in lines)
