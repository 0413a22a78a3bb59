"""`mobilenet-jax evaluate`: evaluates trained models on labeled images and writes a report."""

import argparse
import logging
import math
import os
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING

from mobilenet_jax.cli.arguments import (
    Subparsers,
    add_inference_options,
    parse_integer,
    parse_model,
    parse_names,
    parse_path,
)

if TYPE_CHECKING:
    from mobilenet_jax.evaluation.bootstrap import Intervals
    from mobilenet_jax.evaluation.metrics import Metrics

_logger = logging.getLogger(__name__)


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate",
        help="evaluate a trained model and write a report",
        description="Classifies labeled images with the model of a run, or with weights that have a classifier, and "
        "writes metrics.json, predictions.csv, plots and report.html.",
    )
    parser.add_argument(
        "models", metavar="MODEL", type=parse_model, nargs="+",
        help="a workdir, several with --folds, or weights with a classifier, which require --data",
    )  # fmt: skip
    parser.add_argument(
        "--folds", action="store_true",
        help="the workdirs are the folds of a cross-validation: each validation image is classified by the model that "
        "was not trained on its lesion, other images by the mean of all models",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=expanduser, metavar="DIR", help="folder of the images (default: that of the run)"
    )
    parser.add_argument(
        "--source", metavar="NAME",
        help="layout of that folder, as config.data.source (default: that of the run; for weights, folders)",
    )  # fmt: skip
    parser.add_argument(
        "--classes", type=parse_names, metavar="A,B,...",
        help="class names in the order of the outputs, for weights that do not record them",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=("validation", "training", "all", "official", "official:test"),
        help="validation, training: those of the run; all: every image of the folder, or of the training set of the "
        "ISIC archive; official, official:test: its validation or test set (default: validation; for weights, all)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=parse_path, metavar="DIR",
        help="output folder (default: WORKDIR/evaluation/SPLIT, or NAME-evaluation/SPLIT next to weights of that name, "
        "in the current folder for hf://OWNER/NAME; data, checkpoint, image size, views and correction are appended "
        "unless they are the default)",
    )  # fmt: skip
    parser.add_argument(
        "--malignant",
        type=parse_names,
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
    from input_pipeline.sources.isic import find_malignant
    from mobilenet_jax.errors import EvaluationError
    from mobilenet_jax.evaluation.evaluate import evaluate
    from mobilenet_jax.evaluation.trained_run import read_evaluated_model
    from mobilenet_jax.reporting.limits import list_warnings
    from mobilenet_jax.reporting.report import check_report_folder, write_report

    class_names = args.classes or None
    runs = [read_evaluated_model(path, args.checkpoint, class_names) for path in args.models]
    runs = [run.with_image_size(args.image_size) for run in runs] if args.image_size else runs
    names = runs[0].class_names
    if len(runs) > 1 and not (args.folds and args.out):
        raise EvaluationError("several workdirs require --folds, and --out for the folder of the joint evaluation")
    split = args.split or runs[0].default_split
    out = args.out or _choose_folder(args, split)
    existing = next(path for path in (out, *out.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):  # found before the images are classified
        raise EvaluationError(f"cannot write to {out}: choose another --out")
    check_report_folder(out)
    evaluation = evaluate(
        runs,
        data=args.data,
        source=args.source,
        split=split,
        views=args.tta,
        correction=args.correct,
        malignant=find_malignant(names) if args.malignant is None else args.malignant,
        resamples=args.resamples,
        batch_size=args.batch_size,
    )
    write_report(evaluation, out)
    for warning in list_warnings(evaluation):
        _logger.warning(warning)
    print_metrics(evaluation.metrics, evaluation.intervals)
    print(f"{out / 'report.html'}, {out / 'metrics.json'}, {out / 'predictions.csv'}")


def print_metrics(metrics: "Metrics", intervals: "Intervals") -> None:
    """Prints the overall metrics, with their intervals if there are any."""
    from mobilenet_jax.evaluation.metrics import OVERALL

    for name, (label, _) in OVERALL.items():
        if name not in metrics:  # top-k accuracy for k classes or fewer
            continue
        low, high = intervals.get(name, (math.nan, math.nan))
        value = "undefined" if math.isnan(metrics[name]) else f"{metrics[name]:.4f}"
        interval = "" if math.isnan(low) else f"  [{low:.4f}, {high:.4f}]"
        print(f"{label:<24}{value}{interval}")


def _choose_folder(args: argparse.Namespace, split: str) -> Path:
    """Returns the default output folder, see `name_evaluation`."""
    from mobilenet_jax.evaluation.evaluate import name_evaluation
    from mobilenet_jax.weights.hub import get_repository, is_hub_location, strip_folder
    from mobilenet_jax.weights.load import is_workdir

    model = args.models[0]
    if is_hub_location(model):
        parent = Path(f"{get_repository(model).partition('/')[2]}-evaluation")
    else:
        path = Path(os.path.abspath(model))  # `.` has a name too
        name = path.name if path.is_dir() else path.stem
        parent = model / "evaluation" if is_workdir(model) else path.with_name(f"{name}-evaluation")
    own = split in ("validation", "training")  # the same images wherever the data set is stored
    return parent / name_evaluation(
        split,
        args.tta,
        args.correct,
        data=strip_folder(args.data) if args.data and not own else "",
        checkpoint="latest" if args.checkpoint == "latest" else "",
        size=args.image_size,
    )
