"""The `mobilenet-jax` command, and how commands end: with status 0, or with one line that says what is wrong."""

import argparse
import os
import sys
from collections.abc import Callable

from mobilenet_jax.model import ALPHAS, MIN_IMAGE_SIZE


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

    args = parser.parse_args()
    run_as_command(lambda: args.run(args), (OSError,), debug=args.debug)


def _image_size(text: str) -> int:
    size = int(text)
    if size < MIN_IMAGE_SIZE:
        raise argparse.ArgumentTypeError(f"{size} is less than {MIN_IMAGE_SIZE}")
    return size


def _summary(args: argparse.Namespace) -> None:
    from mobilenet_jax.summary import as_json, as_text, summarize

    table = summarize(args.alpha, args.image_size, args.include_top)
    print(as_json(table) if args.format == "json" else as_text(table))


def run_as_command(job: Callable[[], object], errors: tuple[type[Exception], ...], *, debug: bool) -> None:
    """Runs a job; what its user can mend is printed as one line, and ends the process with status 1.

    Args:
        job: what to run.
        errors: the types of errors whose message is such a line. Any other is a bug and shows its traceback.
        debug: whether to show the traceback of these too.
    """
    try:
        job()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
        os._exit(130)  # the threads of JAX and TensorFlow, still at work, can crash an orderly exit
    except errors as error:
        if debug:
            raise
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
