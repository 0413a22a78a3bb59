"""`mobilenet-jax card`: writes a model card and the weights, ready to be published."""

import argparse

from mobilenet_jax.cli.arguments import Subparsers, add_checkpoint_option, add_evaluation_option, parse_path


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "card",
        help="write a model card with the weights, ready to be published",
        description="Writes README.md in the format of Hugging Face model cards, model.safetensors, config.json and "
        "two plots. Evaluate the run first.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", type=parse_path, help="an evaluated run")
    add_evaluation_option(parser)
    parser.add_argument("--out", type=parse_path, metavar="DIR", help="output folder (default: WORKDIR/card)")
    add_checkpoint_option(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Writes the folder and prints its path."""
    from mobilenet_jax.evaluation.trained_run import read_trained_run
    from mobilenet_jax.reporting.model_card import write_model_card

    out = args.out or args.workdir / "card"
    write_model_card(read_trained_run(args.workdir, args.checkpoint), args.evaluation, out)
    print(out)
