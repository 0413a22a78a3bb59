"""`mobilenet-jax summary`: prints the layer table of the backbone."""

import argparse

from mobilenet_jax.cli.arguments import Subparsers, parse_integer


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser("summary", help="print the layer table of the backbone")
    parser.add_argument("--alpha", type=float, choices=(0.25, 0.5, 0.75, 1.0), default=1.0, help="width (default: 1.0)")
    parser.add_argument(
        "--image-size", type=parse_integer(32), default=224, help="input size in pixels, at least 32 (default: 224)"
    )
    parser.add_argument("--include-top", action="store_true", help="include the ImageNet classifier")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: text)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Prints the table."""
    from mobilenet_jax.model.summary import format_json, format_text, summarize

    table = summarize(args.alpha, args.image_size, args.include_top)
    print(format_json(table) if args.format == "json" else format_text(table))
