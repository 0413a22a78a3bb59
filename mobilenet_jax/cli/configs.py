"""`mobilenet-jax configs`: lists the shipped configurations."""

import argparse

from mobilenet_jax.cli.arguments import Subparsers


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "configs",
        help="list the shipped configurations",
        description="Prints the name and a description of each configuration that --config accepts by its name.",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Prints one line per configuration."""
    from mobilenet_jax.training.config_files import list_shipped_configs

    configs = list_shipped_configs()
    width = max(len(config.name) for config in configs)
    for config in configs:
        print(f"{config.name:<{width}}  {config.summary}")
