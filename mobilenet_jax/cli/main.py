"""The `mobilenet-jax` command: one module per subcommand, all run inside one error boundary.

The modules import JAX, TensorFlow and the rest of the package when their command runs, so that `--help` is fast.
"""

import argparse
import gc
import io
import logging
import sys
from collections.abc import Sequence

from mobilenet_jax.cli import (
    card,
    compare,
    configs,
    convert,
    cross_validate,
    demo,
    evaluate,
    export,
    predict,
    prepare,
    preview,
    push,
    summary,
    sweep,
    train,
)
from mobilenet_jax.cli.error_boundary import end_at_closed_pipe, run_command
from mobilenet_jax.cli.logs import configure_logging

_COMMANDS = (
    train, cross_validate, sweep, configs, prepare, preview, convert, summary, evaluate, predict, compare, card, push,
    export, demo,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command named by `arguments`, by default those of the process."""
    # Imports and tracing create millions of objects. With Python's thresholds, collecting garbage among them takes a
    # sixth of the time to the first step.
    gc.set_threshold(50_000, 20, 100)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: its encoding may lack letters of a file name
    with end_at_closed_pipe():
        parser = _build_parser()
        args, overrides = parser.parse_known_args(arguments)
        if overrides and not args.takes_config:
            parser.error(f"unrecognized arguments: {' '.join(overrides)}")
        args.overrides = overrides  # --config.SECTION.KEY=VALUE, parsed by training/config.py
        configure_logging(logging.INFO)
        run_command(lambda: args.run(args), debug=args.debug)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mobilenet-jax", description="Fine-tunes MobileNet v1 in JAX.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(takes_config=False)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        subparser = command.add_parser(subparsers)
        subparser.set_defaults(run=command.run)
        subparser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser
