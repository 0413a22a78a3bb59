"""`mobilenet-jax summary`: prints the layer table of the network."""

import argparse

from mobilenet_jax.cli.arguments import Subparsers, parse_integer

# Repeats MIN_IMAGE_SIZE and MAX_IMAGE_SIZE of mobilenet_jax/model/mobilenet.py: importing them here would import JAX
# and delay `--help`. A test compares them.
_MIN_IMAGE_SIZE, _MAX_IMAGE_SIZE = 32, 2048
_MAX_ALPHA = 32  # 3 billion parameters


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser("summary", help="print the layer table of the backbone")
    parser.add_argument(
        "--alpha", type=width_multiplier, default=1.0, help="width multiplier, a multiple of 1/32 (default: 1.0)"
    )
    parser.add_argument(
        "--image-size", type=parse_integer(_MIN_IMAGE_SIZE, _MAX_IMAGE_SIZE), default=224,
        help=f"input size in pixels, {_MIN_IMAGE_SIZE} to {_MAX_IMAGE_SIZE} (default: 224)",
    )  # fmt: skip
    parser.add_argument("--include-top", action="store_true", help="include the ImageNet classifier")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="output format (default: text)")
    return parser


def width_multiplier(text: str) -> float:
    """Parses `--alpha`; argparse names this function in its message for text that is not a number."""
    from mobilenet_jax.model.mobilenet import is_width_multiplier

    if not is_width_multiplier(float(text)) or float(text) > _MAX_ALPHA:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 1/32 from 1/32 to {_MAX_ALPHA}")
    return float(text)


def run(args: argparse.Namespace) -> None:
    """Prints the table."""
    from mobilenet_jax.model.summary import format_json, format_text, summarize

    summary = summarize(args.alpha, args.image_size, args.include_top)
    print(format_json(summary) if args.format == "json" else format_text(summary))
