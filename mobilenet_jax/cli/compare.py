"""`mobilenet-jax compare`: compares evaluated runs."""

import argparse

from mobilenet_jax.cli.arguments import Subparsers, add_evaluation_option, add_resamples_option, parse_path


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "compare",
        help="compare evaluated runs",
        description="Prints the metrics of several runs on the images that all were evaluated on, with 95% intervals "
        "of the differences from the first run (paired bootstrap by lesion), and draws their learning curves. "
        "Evaluate the runs first.",
    )
    parser.add_argument("workdirs", metavar="WORKDIR", type=parse_path, nargs="+", help="two or more evaluated runs")
    add_evaluation_option(parser)
    parser.add_argument(
        "--out",
        type=parse_path,
        metavar="CURVES.png",
        help="learning curves (default: compare.png next to the first workdir)",
    )
    add_resamples_option(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Prints the table and draws the curves, if there are any."""
    from mobilenet_jax.errors import EvaluationError
    from mobilenet_jax.evaluation.compare import compare, write_curves

    if len(args.workdirs) < 2:
        raise EvaluationError("compare requires at least two workdirs")
    out = args.out or args.workdirs[0].parent / "compare.png"
    if out.suffix.lower() != ".png":
        raise EvaluationError(f"{out} must be the name of a PNG file")
    if not out.parent.is_dir():
        raise EvaluationError(f"no such folder: {out.parent}")
    comparison = compare(args.workdirs, args.evaluation, args.resamples)
    print(f"{comparison.images} images in common\n\n{comparison.format_table()}")
    if write_curves(args.workdirs, out):
        print(f"\n{out}")
    else:
        print("\nno learning curves: these are not single runs")
