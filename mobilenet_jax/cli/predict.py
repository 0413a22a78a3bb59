"""`mobilenet-jax predict`: classifies image files."""

import argparse
import functools
import sys
from pathlib import Path

from mobilenet_jax.cli.arguments import Subparsers, add_inference_options


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "predict",
        help="classify images",
        description="Prints the five most probable classes of each image, or writes a table of all probabilities. "
        "Images that cannot be read are skipped, listed at the end, and make the exit status 1.",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a workdir, or weights with a classifier")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="files, folders or glob patterns")
    parser.add_argument("--out", type=Path, metavar="PREDS.csv", help="write a table instead of printing")
    parser.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="of the table (default: csv)")
    parser.add_argument("--explain", type=Path, metavar="DIR", help="write Grad-CAM pictures to DIR; requires --out")
    parser.add_argument("--explain-class", metavar="NAME", help="explain this class instead of the predicted one")
    add_inference_options(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Classifies the images, and reports those that cannot be read."""
    from mobilenet_jax.errors import EvaluationError
    from mobilenet_jax.evaluation.calibration import FILE, describe_probabilities, read_calibration
    from mobilenet_jax.inference.classifier import Classifier
    from mobilenet_jax.inference.predict_files import find_images, print_top_classes, write_predictions
    from mobilenet_jax.weights.load import read_weights

    paths = find_images(args.images)
    weights = read_weights(args.model, checkpoint=args.checkpoint)
    correct = None
    if args.correct:
        calibration = read_calibration(args.model / FILE, describe_probabilities(weights, args.tta))
        correct = functools.partial(calibration.correct, correction=args.correct)
    classifier = Classifier(weights, args.tta, correct)
    if args.out:
        faults = write_predictions(
            classifier,
            paths,
            args.out,
            table_format=args.format,
            batch_size=args.batch_size,
            explain=args.explain,
            explain_class=args.explain_class,
        )
        if len(faults) < len(paths):
            print(f"{args.out}: {len(paths) - len(faults)} images")
    elif args.explain:
        raise EvaluationError("--explain requires --out")
    else:
        faults = print_top_classes(classifier, paths)
    if faults:
        for fault in faults[:-1]:
            print(fault, file=sys.stderr)
        raise EvaluationError(f"{len(faults)} of {len(paths)} images skipped, the last: {faults[-1]}")
