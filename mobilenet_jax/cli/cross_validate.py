"""`mobilenet-jax cross-validate`: trains and evaluates the folds of a cross-validation."""

import argparse

from mobilenet_jax.cli.arguments import Subparsers, add_config_option, parse_integer, parse_path
from mobilenet_jax.cli.evaluate import print_metrics
from mobilenet_jax.cli.sweep import add_sweep_options, make_runner, print_commands, read_evaluation_options


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "cross-validate",
        help="train and evaluate the folds of a cross-validation",
        description="Divides the images into K folds, none of which share a lesion, trains one model per fold on the "
        "others, and evaluates every image with the model that was not trained on it, after its last epoch. Writes the "
        "runs and the joint evaluation to DIR. The same command resumes unfinished runs.",
        allow_abbrev=False,
    )
    add_config_option(parser)
    parser.add_argument("--out", type=parse_path, metavar="DIR", required=True, help="output folder")
    parser.add_argument("--folds", type=parse_integer(2), default=5, metavar="K", help="number of folds (default: 5)")
    add_sweep_options(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Trains the folds, evaluates them together, and prints the overall metrics."""
    from mobilenet_jax.sweeps.cross_validation import CrossValidation, check_overrides, run_cross_validations
    from mobilenet_jax.training.config import list_keys

    cross_validation = CrossValidation(args.out, args.config, tuple(args.overrides), args.folds)
    check_overrides(list_keys(args.overrides))
    runs, runner, options = cross_validation.list_runs(), make_runner(args), read_evaluation_options(args)
    if args.dry_run:
        print_commands(runner, runs)
        return
    run_cross_validations([cross_validation], args.out, runner, options)
    results = cross_validation.read_results(options)
    print_metrics(results["metrics"], results["intervals"])
    print(cross_validation.get_evaluation_folder(options) / "report.html")
