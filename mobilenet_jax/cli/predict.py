"""`mobilenet-jax predict`: classifies image files."""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mobilenet_jax.cli.arguments import Subparsers, add_inference_options, parse_model, parse_path

if TYPE_CHECKING:
    import numpy as np

    from mobilenet_jax.inference.classifier import Classifier
    from mobilenet_jax.inference.predict_files import Consumer
    from mobilenet_jax.weights.weights import Weights

_TOP = 5  # classes that are printed per image


def add_parser(commands: Subparsers) -> argparse.ArgumentParser:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "predict",
        help="classify images",
        description="Prints the five most probable classes of each image, or writes a table of all probabilities. "
        "Images that cannot be read are skipped and listed at the end; the exit status is then 1.",
    )
    parser.add_argument("model", metavar="MODEL", type=parse_model, help="a workdir, or weights with a classifier")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="files, folders or glob patterns")
    parser.add_argument("--out", type=parse_path, metavar="PREDS.csv", help="write a table instead of printing")
    parser.add_argument(
        "--format", choices=("csv", "isic", "jsonl"),
        help="format of the table; isic: that of the ISIC challenge, without folders and predicted classes "
        "(default: csv)",
    )  # fmt: skip
    parser.add_argument("--explain", type=parse_path, metavar="DIR", help="write Grad-CAM pictures to DIR")
    parser.add_argument("--explain-class", metavar="NAME", help="explain this class instead of the predicted one")
    add_inference_options(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Classifies the images, and reports those that cannot be read."""
    from input_pipeline.errors import make_printable
    from mobilenet_jax.errors import EvaluationError
    from mobilenet_jax.inference.classifier import Classifier
    from mobilenet_jax.inference.predict_files import (
        find_images,
        find_root,
        leave_out_pictures,
        make_explainer,
        write_predictions,
    )
    from mobilenet_jax.weights.load import is_workdir, read_weights

    if args.correct and not is_workdir(args.model):
        raise EvaluationError(f"--correct requires the workdir of a run: {args.model} is not one")
    if args.format and not args.out:
        raise EvaluationError("--format is the format of a table: add --out=FILE")
    if args.explain_class and not args.explain:
        raise EvaluationError("--explain-class is a class to explain: add --explain=DIR for the pictures")
    paths, root = find_images(args.images), find_root(args.images)
    weights = read_weights(args.model, checkpoint=args.checkpoint)
    weights = weights.with_image_size(args.image_size) if args.image_size else weights
    classifier = Classifier(weights, args.tta, _read_correction(args, weights))
    explain = None
    if args.explain:
        paths = leave_out_pictures(paths, args.explain, classifier.class_names)
        explain = make_explainer(classifier, paths, args.explain, root=root, class_name=args.explain_class)
    if args.out:
        faults = write_predictions(
            classifier, paths, args.out,
            table_format=args.format or "csv", root=root, batch_size=args.batch_size, explain=explain,
        )  # fmt: skip
        if len(faults) < len(paths):
            print(f"{args.out}: {len(paths) - len(faults)} images")
    else:
        faults = _print_top_classes(classifier, paths, explain, args.batch_size)
    if faults:
        for fault in faults[:-1]:
            print(make_printable(fault), file=sys.stderr)
        raise EvaluationError(f"{len(faults)} of {len(paths)} images skipped, the last: {faults[-1]}")


def _read_correction(args: argparse.Namespace, weights: "Weights") -> "Callable[[np.ndarray], np.ndarray] | None":
    """Reads the correction of the probabilities from the workdir; None without `--correct`."""
    if not args.correct:
        return None
    from mobilenet_jax.evaluation.calibration import CALIBRATION_FILE, describe_probabilities, read_calibration

    calibration = read_calibration(Path(args.model) / CALIBRATION_FILE, describe_probabilities(weights, args.tta))
    return functools.partial(calibration.correct, correction=args.correct)


def _print_top_classes(
    classifier: "Classifier", paths: Sequence[str], explain: "Consumer | None", batch_size: int
) -> list[str]:
    """Prints the most probable classes of each file as soon as its batch is classified, and returns the faults.

    Draws each explanation as well, if there is a function that does.
    """
    import numpy as np

    from input_pipeline.errors import make_printable
    from mobilenet_jax.inference.predict_files import classify_files

    faults = []
    for batch in classify_files(classifier, paths, batch_size, progress=False):
        faults += batch.faults
        if explain:
            explain(batch)
        for path, probabilities in zip(batch.paths, batch.probabilities, strict=True):
            print(make_printable(path))
            for c in np.argsort(-probabilities, kind="stable")[:_TOP]:
                name = classifier.class_names[c]
                print(f"  {c:>4}  {probabilities[c]:.4f}  {'' if name == str(c) else name}".rstrip())
    return faults
