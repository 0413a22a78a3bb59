"""`mobilenet-jax preview`: draws augmented training images."""

import argparse

from mobilenet_jax.cli.arguments import Subparsers, add_config_option, parse_path


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "preview",
        help="draw examples next to their augmented versions",
        description="Writes a PNG: one example of each class, or of the first twelve, unchanged and with the "
        "augmentation of the first eight epochs.",
        allow_abbrev=False,
    )
    parser.add_argument("out", metavar="OUT.png", type=parse_path, help="picture to write")
    add_config_option(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Writes the picture and prints its path."""
    from input_pipeline.preview import write_preview
    from mobilenet_jax.errors import ConfigError
    from mobilenet_jax.training.config import check_config, parse_config
    from mobilenet_jax.training.data import load_examples
    from mobilenet_jax.training.setup import get_preprocessing, make_augmentation

    if args.out.suffix.lower() != ".png" or not args.out.parent.is_dir():  # found before the images are validated
        raise ConfigError(f"{args.out} must be the name of a PNG file in an existing folder")
    config, _ = parse_config(args.config, args.overrides)
    check_config(config)
    training, _ = load_examples(config.data, config.model.num_classes, config.seed)
    write_preview(
        args.out,
        training,
        make_augmentation(config.augment),
        image_size=config.data.image_size,
        preprocessing=get_preprocessing(config.data),
        seed=config.seed,
    )
    print(args.out)
