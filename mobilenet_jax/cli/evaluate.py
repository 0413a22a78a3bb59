"""`mobilenet-jax evaluate`: evaluates trained models on labeled images and writes a report."""

import argparse
import logging
import os
from pathlib import Path

from mobilenet_jax.cli.arguments import Subparsers, add_inference_options, parse_integer

_logger = logging.getLogger(__name__)


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate",
        help="evaluate a trained model and write a report",
        description="Classifies labeled images with the model of a run, and writes metrics.json, predictions.csv, "
        "plots and report.html.",
    )
    parser.add_argument("workdirs", metavar="WORKDIR", type=Path, nargs="+", help="a run, or several with --folds")
    parser.add_argument(
        "--folds", action="store_true",
        help="the workdirs are the folds of a cross-validation: each validation image is classified by the model that "
        "was not trained on its lesion, other images by the mean of all models",
    )  # fmt: skip
    parser.add_argument("--data", metavar="DIR", help="folder of the images (default: that of the run)")
    parser.add_argument(
        "--source", metavar="NAME", help="layout of that folder, as config.data.source (default: that of the run)"
    )
    parser.add_argument(
        "--split", choices=("validation", "training", "all", "official", "official:test"), default="validation",
        help="validation, training: those of the run; all: every image of the folder; official, official:test: the "
        "validation or test set of the ISIC archive (default: validation)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="output folder (default: WORKDIR/evaluation/SPLIT, plus any non-default options)",
    )  # fmt: skip
    parser.add_argument(
        "--malignant",
        metavar="A,B,...",
        help="classes that count as malignant (default: MEL,BCC,AKIEC if the model has them)",
    )
    parser.add_argument(
        "--resamples", type=parse_integer(0), default=1000, metavar="N",
        help="bootstrap samples; 0: no intervals (default: 1000)",
    )  # fmt: skip
    add_inference_options(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Evaluates, writes the report, and prints the overall metrics."""
    from input_pipeline.sources.isic import MALIGNANT
    from mobilenet_jax.errors import EvaluationError
    from mobilenet_jax.evaluation.evaluate import evaluate
    from mobilenet_jax.evaluation.metrics import OVERALL
    from mobilenet_jax.evaluation.trained_run import read_trained_run
    from mobilenet_jax.reporting.limits import list_warnings
    from mobilenet_jax.reporting.report import write_report

    runs = [read_trained_run(workdir, args.checkpoint) for workdir in args.workdirs]
    default_malignant = MALIGNANT if set(MALIGNANT) <= set(runs[0].class_names) else ()
    if len(runs) > 1 and not (args.folds and args.out):
        raise EvaluationError("several workdirs require --folds, and --out for the folder of the joint evaluation")
    out = args.out or _choose_folder(args)
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise EvaluationError(f"cannot write to {out}: choose another --out")
    evaluation = evaluate(
        runs,
        data=args.data,
        source=args.source,
        split=args.split,
        views=args.tta,
        correction=args.correct,
        malignant=default_malignant if args.malignant is None else [m for m in args.malignant.split(",") if m],
        resamples=args.resamples,
        batch_size=args.batch_size,
    )
    write_report(evaluation, out)
    for warning in list_warnings(evaluation):
        _logger.warning(warning)
    for name, (label, _) in OVERALL.items():
        interval = "  [{:.4f}, {:.4f}]".format(*evaluation.intervals[name]) if evaluation.intervals else ""
        print(f"{label:<24}{evaluation.metrics[name]:.4f}{interval}")
    print(f"{out / 'report.html'}, {out / 'metrics.json'}, {out / 'predictions.csv'}")


def _choose_folder(args: argparse.Namespace) -> Path:
    """Returns the default output folder, whose name contains every option that differs from its default."""
    own = args.split in ("validation", "training")  # the same images wherever the data set is stored
    names = (
        args.split.replace(":", "-"),
        Path(args.data).name if args.data and not own else "",
        "latest" if args.checkpoint == "latest" else "",
        f"tta{args.tta}" if args.tta > 1 else "",
        args.correct,
    )
    return args.workdirs[0] / "evaluation" / "-".join(filter(None, names))
