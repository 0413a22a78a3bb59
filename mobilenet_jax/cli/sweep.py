"""`mobilenet-jax sweep`: trains and compares variants of a configuration."""

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mobilenet_jax.cli.arguments import (
    Subparsers,
    add_probability_options,
    add_resamples_option,
    parse_integer,
    parse_path,
)

if TYPE_CHECKING:
    from mobilenet_jax.sweeps.cross_validation import EvaluationOptions, FoldRun
    from mobilenet_jax.sweeps.runner import Runner


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "sweep",
        help="train and compare variants of a configuration",
        description="Cross-validates each variant that SWEEP.py defines, once per seed, and writes a table with the "
        "differences from the first one to DIR/sweep.md. The same command resumes unfinished runs.",
        epilog="--config.SECTION.KEY=VALUE sets a value of all variants.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "sweep", metavar="SWEEP.py", type=parse_path, help="a file with a function get_sweep(), see docs/evaluation.md"
    )
    parser.add_argument("--out", type=parse_path, metavar="DIR", required=True, help="output folder")
    add_sweep_options(parser)
    parser.set_defaults(takes_config=True)
    return parser


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the commands that start several runs and evaluate them together."""
    parser.add_argument(
        "--jobs", type=parse_integer(1), default=1, metavar="N", help="number of runs at once (default: 1)"
    )
    parser.add_argument(
        "--command", default="{command}", metavar="TEMPLATE",
        help="command line that starts a run: {command} stands for its own command, {slot} for a number from 0 to "
        "JOBS - 1, such as 'env CUDA_VISIBLE_DEVICES={slot} {command}' or 'srun --gres=gpu:1 {command}'",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the commands of the runs, one per line")
    add_probability_options(parser)
    add_resamples_option(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the sweep, and prints the table of the variants that are complete, even if others failed."""
    from mobilenet_jax.errors import ConfigError, TrainingError
    from mobilenet_jax.sweeps.sweep import list_variants, load_sweep, run_variants, search, write_table

    sweep, runner, options = load_sweep(args.sweep), make_runner(args), read_evaluation_options(args)
    if sweep.search and args.dry_run:
        raise ConfigError("the runs of a search depend on their results: leave out --dry-run")
    failure: TrainingError | None = None
    if sweep.search:
        variants = search(sweep, args.out, args.overrides, runner, options)
    else:
        variants = list_variants(sweep, args.out, args.overrides)
        if args.dry_run:
            print_commands(runner, [run for v in variants for c in v.cross_validations for run in c.list_runs()])
            return
        try:
            run_variants(variants, args.out, runner, options)
        except TrainingError as error:
            failure = error
        variants = [v for v in variants if all(c.is_evaluated(options) for c in v.cross_validations)]
    if variants:
        print(write_table(variants, options, args.out), end="")
        print(f"\n{args.out / 'sweep.md'}")
    if failure:
        raise failure


def make_runner(args: argparse.Namespace) -> "Runner":
    """Returns the runner that `--jobs` and `--command` specify."""
    from mobilenet_jax.sweeps.runner import Runner

    return Runner(args.jobs, args.command)


def read_evaluation_options(args: argparse.Namespace) -> "EvaluationOptions":
    """Returns the options of the joint evaluations."""
    from mobilenet_jax.sweeps.cross_validation import EvaluationOptions

    return EvaluationOptions(args.tta, args.correct, args.image_size, args.resamples)


def print_commands(runner: "Runner", runs: "Sequence[FoldRun]") -> None:
    """Prints the command of each run that is not finished, such as for the tasks of a Slurm array.

    Raises:
        ConfigError: the runner's command depends on the other commands that run at the same time.
    """
    from mobilenet_jax.errors import ConfigError

    if runner.uses_slots:
        raise ConfigError(
            "--dry-run cannot print {slot}, which is known when a run starts: leave {slot} out of --command"
        )
    for run in runs:
        if not run.is_finished():
            print(shlex.join(runner.format_command(run.job)))
