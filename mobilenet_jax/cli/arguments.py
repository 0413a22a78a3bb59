"""Types and options that several commands share."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Subparsers = Any  # argparse's own type of `add_subparsers()` is private


def parse_integer(minimum: int, maximum: float = math.inf) -> Callable[[str], int]:
    """Returns an argparse type: an integer that is at least `minimum`, and at most `maximum`."""

    def integer(text: str) -> int:  # its name is in argparse's message for text that is not a number
        if int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text} is less than {minimum}")
        if int(text) > maximum:
            raise argparse.ArgumentTypeError(f"{text} is more than {maximum}")
        return int(text)

    return integer


def parse_names(text: str) -> list[str]:
    """Returns the names in a list that is separated by commas."""
    return [name for part in text.split(",") if (name := part.strip())]


def parse_path(text: str) -> Path:
    """Returns a path; shells leave the ~ of `--out=~/folder` as it is."""
    return Path(os.path.expanduser(text))  # leaves the name of an unknown user as it is


def parse_model(text: str) -> str | Path:
    """Returns the path of weights or of a workdir; a location on the Hub stays text, since a path would change it."""
    from mobilenet_jax.weights.hub import is_hub_location

    return text if is_hub_location(text) else parse_path(text)


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--config` and its overrides."""
    parser.add_argument(
        "--config", metavar="NAME|FILE[:RECIPE]",
        help="a shipped configuration (`mobilenet-jax configs` lists them) or a file of your own, such as mine.py",
    )  # fmt: skip
    parser.epilog = "--config.SECTION.KEY=VALUE overrides a value of the configuration."
    parser.set_defaults(takes_config=True)


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--checkpoint`."""
    parser.add_argument(
        "--checkpoint", choices=("best", "latest"), default="best", help="checkpoint of a workdir (default: best)"
    )


def add_probability_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that determine the probabilities of a model."""
    parser.add_argument(
        "--tta", type=parse_integer(1), default=1, metavar="N",
        help="test-time augmentation: average over N flipped and transposed views, at most 8 (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--correct", choices=("temperature", "prior"),
        help="correct the probabilities, as fitted by evaluate: temperature scaling, or removal of the training prior",
    )  # fmt: skip
    parser.add_argument(
        "--image-size", type=parse_integer(1), metavar="N",
        help="resize images to N x N pixels instead of the size of training; not for the article's heads",
    )  # fmt: skip


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the commands that apply a model to images."""
    add_probability_options(parser)
    add_checkpoint_option(parser)
    parser.add_argument(
        "--batch-size", type=parse_integer(1), default=64, metavar="N", help="images per batch (default: 64)"
    )


def add_resamples_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--resamples` of the commands that cannot do without intervals."""
    parser.add_argument(
        "--resamples", type=parse_integer(1), default=1000, metavar="N", help="bootstrap samples (default: 1000)"
    )


def add_evaluation_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--evaluation`."""
    parser.add_argument(
        "--evaluation", default="validation", metavar="NAME", help="folder in WORKDIR/evaluation (default: validation)"
    )
