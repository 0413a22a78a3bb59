"""`mobilenet-jax convert`: reads weights in any supported format and writes them in another."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from mobilenet_jax.cli.arguments import Subparsers, add_checkpoint_option, parse_model, parse_path

if TYPE_CHECKING:
    from mobilenet_jax.weights.weights import Weights


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "convert",
        help="convert weights between formats",
        description="Reads Keras files (HDF5 of Keras 1 and 2, .weights.h5 and .keras of Keras 3), .safetensors files "
        "of this project, timm and Transformers, TensorFlow checkpoints, Orbax folders, the workdirs of training runs, "
        "and hf://OWNER/NAME, a repository on the Hugging Face Hub; the format of SRC is detected from its content. "
        "Writes NAME.safetensors, NAME.weights.h5 for Keras 3, or, to a name without a suffix, an Orbax folder or, "
        "with --to, a folder for timm or Transformers.",
    )
    parser.add_argument(
        "src", metavar="SRC", type=parse_model,
        help="weights to read: a file, an Orbax folder, a workdir, or hf://OWNER/NAME[@REVISION]",
    )  # fmt: skip
    parser.add_argument(
        "dst", metavar="DST", type=parse_path, help="file or folder to write; its name determines the format"
    )
    parser.add_argument(
        "--to", choices=("timm", "transformers"), help="write a folder that this library loads, with its config.json"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the mapping of the tensors and write nothing")
    parser.add_argument("--force", action="store_true", help="overwrite existing weights")
    parser.add_argument("--no-top", action="store_true", help="leave out the classifier")
    parser.add_argument("--allow-nonfinite", action="store_true", help="accept NaN and infinity")
    add_checkpoint_option(parser)
    parser.add_argument(
        "--input-scaling", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="input range that pixel values 0 and 255 were mapped to in training; Keras files do not record it "
        "(default for them: -1 1, as for ImageNet weights)",
    )  # fmt: skip
    return parser


def run(args: argparse.Namespace) -> None:
    """Converts, and prints a summary of the weights."""
    from mobilenet_jax.weights.load import read_weights
    from mobilenet_jax.weights.save import check_destination, write_weights

    if args.dry_run:
        _print_mappings(args)
        return
    check_destination(args.dst, library=args.to, force=args.force)
    weights = read_weights(
        args.src, head=not args.no_top, checkpoint=args.checkpoint, allow_nonfinite=args.allow_nonfinite
    )
    if args.input_scaling:
        metadata = dataclasses.replace(weights.metadata, input_scaling=tuple(args.input_scaling))
        weights = dataclasses.replace(weights, metadata=metadata)
    write_weights(args.dst, weights, library=args.to, force=args.force)
    print(f"{args.src} ({weights.format}) -> {args.dst}")
    print(_format_summary(weights))


def _format_summary(weights: "Weights") -> str:
    from mobilenet_jax.weights.metadata import format_input_scaling

    architecture, metadata = weights.architecture, weights.metadata
    values = sum(tensor.size for tensor in weights.tensors.values())
    head = f"head {architecture.head!r} with {architecture.num_classes} classes" if architecture.head else "no head"
    size = "x".join(map(str, metadata.image_size)) if metadata.image_size else "unknown"
    return (
        f"MobileNet alpha {architecture.alpha}, {values:,} values in {len(weights.tensors)} tensors, {head}; "
        f"image size {size}, input scaling {format_input_scaling(metadata.input_scaling)}"
    )


def _print_mappings(args: argparse.Namespace) -> None:
    from mobilenet_jax.weights.formats import choose_format
    from mobilenet_jax.weights.load import map_tensors

    target = choose_format(args.dst, args.to)
    mappings = map_tensors(args.src, target, checkpoint=args.checkpoint, head=not args.no_top)
    rows = [(m.source, m.target, str(m.shape), m.transform or "none") for m in mappings]
    table = [("source", "target", "shape", "transform"), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
