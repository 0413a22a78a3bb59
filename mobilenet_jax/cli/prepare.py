"""`mobilenet-jax prepare`: arranges images in class folders, or as a TFDS data set."""

import argparse

from mobilenet_jax.cli.arguments import Subparsers, parse_path


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "prepare",
        help="arrange images in class folders, or as a TFDS data set",
        description="Copies images to DST/Train/CLASS/, as the article did, with a table of their lesions; an "
        "interrupted copy is resumed. Or creates the TFDS data set isic2018_task3 in DST.",
    )
    parser.add_argument("raw", metavar="RAW", type=parse_path, help="folder of the download")
    parser.add_argument("dst", metavar="DST", type=parse_path, help="folder to write")
    # Without choices: the registry of sources imports the readers, and --help should be immediate.
    parser.add_argument("--source", default="isic2018", help="layout of RAW, as config.data.source (default: isic2018)")
    parser.add_argument(
        "--to", choices=("folders", "tfds"), default="folders", help="output; tfds requires isic2018 (default: folders)"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Copies the images and prints the number of images and lesions per class."""
    from input_pipeline.errors import DataError
    from input_pipeline.sources.folders import write_folders
    from input_pipeline.sources.registry import SOURCES, read_examples
    from input_pipeline.sources.tfds import prepare_tfds

    if args.source == "sample":
        layouts = ", ".join(name for name in SOURCES if name != "sample")
        raise DataError(f"--source sample is drawn by this project and has no RAW folder: choose one of {layouts}")
    if args.to == "tfds" and args.source != "isic2018":
        raise DataError(f"--to tfds requires --source isic2018, not {args.source}")
    examples = read_examples(args.source, args.raw)
    if args.to == "tfds":
        prepare_tfds(args.raw, args.dst)
    else:
        write_folders(examples, args.dst)
    print(f"{args.dst}\n{examples.format_class_table()}")
