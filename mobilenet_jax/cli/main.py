"""The `mobilenet-jax` command."""

import argparse
import dataclasses
from pathlib import Path

from absl import flags, logging

from mobilenet_jax.cli.error_boundary import run_as_command
from mobilenet_jax.cli.evaluate import add_commands
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import ALPHAS, MIN_IMAGE_SIZE
from mobilenet_jax.weights.load import mapping, read_weights
from mobilenet_jax.weights.save import check_destination, write_weights


def main() -> None:
    """Runs the `mobilenet-jax` command."""
    parser = argparse.ArgumentParser(prog="mobilenet-jax", description="MobileNet v1 in JAX.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    summary = commands.add_parser("summary", help="print the layer table of the backbone")
    summary.add_argument("--alpha", type=float, choices=ALPHAS, default=1.0, help="width (default: 1.0)")
    summary.add_argument("--image-size", type=_image_size, default=224, help="pixels, 32 or more (default: 224)")
    summary.add_argument("--include-top", action="store_true", help="go on through the classifier of ImageNet")
    summary.add_argument("--format", choices=("text", "json"), default="text", help="(default: text)")
    summary.set_defaults(run=_summary)

    convert = commands.add_parser(
        "convert",
        help="read weights of any kind, write them in another",
        description="Reads Keras files (HDF5 of Keras 1 and 2, .weights.h5 and .keras of Keras 3), .safetensors and "
        "folders written here, and the workdirs of training runs; what SRC is, is seen from its content. Writes "
        "NAME.safetensors, NAME.weights.h5 for Keras 3, or, to a name without a suffix, a folder for Orbax.",
    )
    convert.add_argument("src", metavar="SRC", type=Path)
    convert.add_argument("dst", metavar="DST", type=Path)
    convert.add_argument("--dry-run", action="store_true", help="print where each tensor would go; write nothing")
    convert.add_argument("--force", action="store_true", help="overwrite weights that are there")
    convert.add_argument("--no-top", action="store_true", help="leave the classifier out, whatever it is")
    convert.add_argument("--allow-nonfinite", action="store_true", help="take NaN and infinity")
    convert.add_argument(
        "--checkpoint", choices=("best", "latest"), default="best", help="of a workdir (default: best)"
    )
    convert.add_argument(
        "--input-scaling",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="what pixel values 0 and 255 were mapped to in training; Keras's files do not say, and -1 1 is taken, "
        "as for its ImageNet weights",
    )
    convert.set_defaults(run=_convert)

    prepare = commands.add_parser(
        "prepare",
        help="arrange images in a folder a class, or as a TFDS data set",
        description="Copies images into DST/Train/CLASS/, as the article did, with a table of their lesions; a copy "
        "that was stopped goes on where it was. Or makes the TFDS data set isic2018_task3 in DST.",
    )
    prepare.add_argument("raw", metavar="RAW", type=Path, help="the folder of the download")
    prepare.add_argument("dst", metavar="DST", type=Path)
    prepare.add_argument(
        "--source",
        choices=("isic2018", "ham10000", "folders", "tfds"),
        default="isic2018",
        help="the layout of RAW (default: isic2018)",
    )
    prepare.add_argument(
        "--to", choices=("folders", "tfds"), default="folders", help="what to make; tfds is made of isic2018 alone"
    )
    prepare.set_defaults(run=_prepare)

    preview = commands.add_parser(
        "preview",
        help="draw real examples beside their augmented versions",
        description="Writes a PNG: an example of each class, as it is and as the first eight epochs see it.",
        epilog="--config.SECTION.KEY=VALUE changes the configuration, as for train.py.",
    )
    preview.add_argument("out", metavar="OUT.png", type=Path)
    preview.add_argument("--config", required=True, help="the experiment, such as configs/mobilenet.py:isic2018")
    preview.set_defaults(run=_preview)

    add_commands(commands)

    args, rest = parser.parse_known_args()
    if rest and args.run is not _preview:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest  # of a configuration
    logging.set_verbosity("error")  # Orbax warns of folders that were opened to be read
    run_as_command(lambda: args.run(args), (OSError, WeightsError), debug=args.debug)


def _image_size(text: str) -> int:
    size = int(text)
    if size < MIN_IMAGE_SIZE:
        raise argparse.ArgumentTypeError(f"{size} is less than {MIN_IMAGE_SIZE}")
    return size


def _summary(args: argparse.Namespace) -> None:
    from mobilenet_jax.model.summary import as_json, as_text, summarize

    table = summarize(args.alpha, args.image_size, args.include_top)
    print(as_json(table) if args.format == "json" else as_text(table))


def _convert(args: argparse.Namespace) -> None:
    check_destination(args.dst, force=args.force)
    if args.dry_run:
        to_keras = args.dst.name.endswith(".weights.h5")
        rows = mapping(args.src, to_keras=to_keras, checkpoint=args.checkpoint, head=not args.no_top)
        table = [("source", "target", "shape", "transform"), *((a, b, str(c), d or "none") for a, b, c, d in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    weights = read_weights(
        args.src, head=not args.no_top, checkpoint=args.checkpoint, allow_nonfinite=args.allow_nonfinite
    )
    if args.input_scaling:
        metadata = dataclasses.replace(weights.metadata, input_scaling=tuple(args.input_scaling))
        weights = dataclasses.replace(weights, metadata=metadata)
    write_weights(args.dst, weights, force=args.force)
    found, metadata = weights.architecture, weights.metadata
    size = "x".join(map(str, metadata.image_size)) if metadata.image_size else "a size not known"
    print(
        f"{args.src} ({weights.kind}) -> {args.dst}\n"
        f"MobileNet alpha {found.alpha}, {sum(x.size for x in weights.tensors.values()):,} values in "
        f"{len(weights.tensors)} tensors, "
        + (f"head {found.head!r} for {found.num_classes} classes" if found.head else "no classifier")
        + f"; trained on images of {size}, pixels scaled to [{metadata.input_scaling[0]:g}, "
        f"{metadata.input_scaling[1]:g}]"
    )


def _prepare(args: argparse.Namespace) -> None:
    from input_pipeline.errors import DataError
    from input_pipeline.sources.folders import write_folders  # takes its time
    from input_pipeline.sources.registry import read_examples
    from input_pipeline.sources.tfds import prepare_tfds

    def job() -> None:
        examples = read_examples(args.source, args.raw)
        if args.to == "folders":
            write_folders(examples, args.dst)
        elif args.source == "isic2018":
            prepare_tfds(args.raw, args.dst)
        else:
            raise DataError(f"--to tfds makes the data set of --source isic2018, not of {args.source}")
        print(f"{args.dst}\n{examples.class_table()}")

    run_as_command(job, (DataError, OSError), debug=args.debug)


def _preview(args: argparse.Namespace) -> None:
    from input_pipeline.errors import DataError
    from input_pipeline.preview import write_preview
    from mobilenet_jax.config import check_config, parse_config
    from mobilenet_jax.errors import ConfigError
    from mobilenet_jax.training.loop import make_augmentation
    from mobilenet_jax.training.setup import load_examples

    def job() -> None:
        config, _, rest = parse_config(["preview", f"--config={args.config}", *args.rest], flags.FlagValues())
        if rest:
            raise ConfigError(f"unexpected argument {rest[0]}")
        check_config(config)
        training, _ = load_examples(config)
        write_preview(
            args.out, training, make_augmentation(config), image_size=config.data.image_size, seed=config.seed
        )
        print(args.out)

    run_as_command(job, (DataError, ConfigError, OSError), debug=args.debug)
