"""The commands after training. What they need is imported when they run, for the others to start at once."""

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobilenet_jax.cli.error_boundary import run_as_command

SPLITS = ("validation", "training", "all", "official", "official:test")
MALIGNANT = ("MEL", "BCC", "AKIEC")  # of ISIC 2018's classes; AKIEC includes what is not yet invasive


def add_commands(commands: Any) -> None:
    """Adds them to a parser's."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a trained model, and write a report",
        description="Classifies labelled images with the model of a run, and writes metrics.json, predictions.csv, "
        "figures and report.html.",
    )
    evaluate.add_argument("workdirs", metavar="WORKDIR", type=Path, nargs="+")
    evaluate.add_argument(
        "--folds",
        action="store_true",
        help="the workdirs are those of a cross-validation: each validation image is classified by the model that did "
        "not see its lesion, other images by the mean of all models",
    )
    evaluate.add_argument("--data", help="the folder of the images (default: that of the run)")
    evaluate.add_argument("--source", help="its layout, as config.data.source (default: that of the run)")
    evaluate.add_argument(
        "--split",
        choices=SPLITS,
        default="validation",
        help="validation and training: the run's own; all: every image of the folder; official, official:test: the "
        "archive's sets (default: validation)",
    )
    evaluate.add_argument(
        "--out", type=Path, help="folder (default: WORKDIR/evaluation/SPLIT, with what differs from the default)"
    )
    evaluate.add_argument(
        "--malignant",
        default=None,
        metavar="A,B,...",
        help=f"the classes counted as malignant (default: {','.join(MALIGNANT)} where the classes are ISIC's)",
    )
    evaluate.add_argument(
        "--resamples", type=_at_least(0), default=1000, help="of the bootstrap; 0: none (default: 1000)"
    )
    _add_common(evaluate)
    evaluate.set_defaults(run=_evaluate)

    predict = commands.add_parser(
        "predict",
        help="classify images",
        description="Prints the five likeliest classes of images, or writes a table of all of them. Images that "
        "cannot be read are left out, listed at the end, and make the exit status 1.",
    )
    predict.add_argument("model", metavar="MODEL", type=Path, help="a workdir, or weights with a classifier")
    predict.add_argument("images", metavar="IMAGE", nargs="+", help="files, folders or patterns")
    predict.add_argument("--out", type=Path, metavar="PREDS.csv", help="write a table instead of printing")
    predict.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="ISIC's table, or JSON lines")
    predict.add_argument("--explain", type=Path, metavar="DIR", help="draw what spoke for the class (Grad-CAM)")
    predict.add_argument("--explain-class", metavar="NAME", help="this class, not the predicted one")
    _add_common(predict)
    predict.set_defaults(run=_predict)
    _add_of_evaluations(commands)


def _add_of_evaluations(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="compare evaluated runs",
        description="Prints the figures of runs side by side, on the images that all were evaluated on, with 95% "
        "intervals of the differences from the first (paired bootstrap by lesion), and draws their curves.",
    )
    compare.add_argument("workdirs", metavar="WORKDIR", type=Path, nargs="+")
    compare.add_argument("--evaluation", default="validation", metavar="NAME", help="folder in WORKDIR/evaluation")
    compare.add_argument("--out", type=Path, metavar="CURVES.png", help="(default: beside the first, compare.png)")
    compare.add_argument("--resamples", type=_at_least(1), default=1000, help="of the bootstrap (default: 1000)")
    compare.set_defaults(run=_compare)

    card = commands.add_parser(
        "card",
        help="a model card, with the weights, ready to be published",
        description="Writes README.md in Hugging Face's form, model.safetensors and config.json.",
    )
    card.add_argument("workdir", metavar="WORKDIR", type=Path)
    card.add_argument("--evaluation", default="validation", metavar="NAME", help="folder in WORKDIR/evaluation")
    card.add_argument("--out", type=Path, help="folder (default: WORKDIR/card)")
    card.add_argument("--checkpoint", choices=("best", "latest"), default="best")
    card.set_defaults(run=_card)


def _compare(args: argparse.Namespace) -> None:
    from mobilenet_jax.errors import EvaluationError
    from mobilenet_jax.evaluation.compare import compare, draw_comparison

    def job() -> None:
        if len(args.workdirs) < 2:
            raise EvaluationError("compare takes two workdirs or more")
        found = compare(args.workdirs, args.evaluation, args.resamples)
        print(f"{found.images} images in common\n\n{found.as_text()}")
        out = args.out or args.workdirs[0].parent / "compare.png"
        draw_comparison(args.workdirs, out)
        print(f"\n{out}")

    run_as_command(job, (EvaluationError, OSError), debug=args.debug)


def _card(args: argparse.Namespace) -> None:
    from mobilenet_jax.errors import EvaluationError, WeightsError
    from mobilenet_jax.evaluation.trained_run import read_trained
    from mobilenet_jax.reporting.model_card import write_card

    def job() -> None:
        out = args.out or args.workdir / "card"
        write_card(read_trained(args.workdir, args.checkpoint), args.evaluation, out)
        print(out)

    run_as_command(job, (EvaluationError, WeightsError, OSError), debug=args.debug)


def _at_least(lowest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text} is less than {lowest}")
        return int(text)

    return number


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tta", type=_at_least(1), default=1, metavar="N", help="mean over N views, turned and mirrored, to 8"
    )
    parser.add_argument(
        "--correct",
        choices=("temperature", "prior"),
        help="calibrated probabilities, or with the classes' shares in training taken out; fitted by evaluate",
    )
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best", help="of a workdir")
    parser.add_argument("--batch-size", type=_at_least(1), default=64, help="images at once (default: 64)")


def _evaluate(args: argparse.Namespace) -> None:
    from input_pipeline.errors import DataError
    from mobilenet_jax.errors import EvaluationError, WeightsError
    from mobilenet_jax.evaluation.evaluate import evaluate
    from mobilenet_jax.evaluation.trained_run import read_trained
    from mobilenet_jax.reporting.report import OVERALL, warnings_of, write_report

    def job() -> None:
        runs = [read_trained(workdir, args.checkpoint) for workdir in args.workdirs]
        malignant = MALIGNANT if set(MALIGNANT) <= set(runs[0].class_names) else ()
        if len(runs) > 1 and not (args.folds and args.out):
            raise EvaluationError("several workdirs take --folds, and --out, a folder for what is written of all")
        out = args.out or _folder(args)
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise EvaluationError(f"{out} cannot be written")
        found = evaluate(
            runs,
            data=args.data,
            source=args.source,
            split=args.split,
            views=args.tta,
            correction=args.correct,
            malignant=malignant if args.malignant is None else [m for m in args.malignant.split(",") if m],
            resamples=args.resamples,
            batch_size=args.batch_size,
        )
        write_report(found, out)
        for warning in warnings_of(found):
            print(f"warning: {warning}", file=sys.stderr)
        for figure, (label, _) in OVERALL.items():
            low, high = found.intervals.get(figure, (None, None))
            interval = "" if low is None else f"  [{low:.4f}, {high:.4f}]"
            print(f"{label:<24}{found.metrics[figure]:.4f}{interval}")
        print(f"{out / 'report.html'}, {out / 'metrics.json'}, {out / 'predictions.csv'}")

    run_as_command(job, (DataError, EvaluationError, WeightsError, OSError), debug=args.debug)


def _folder(args: argparse.Namespace) -> Path:
    """Where an evaluation goes, by what it is of."""
    own = args.split in ("validation", "training")  # the same images wherever they lie
    names = (
        args.split.replace(":", "-"),
        Path(args.data).name if args.data and not own else "",
        "latest" if args.checkpoint == "latest" else "",
        f"tta{args.tta}" if args.tta > 1 else "",
        args.correct,
    )
    return args.workdirs[0] / "evaluation" / "-".join(filter(None, names))


def _predict(args: argparse.Namespace) -> None:
    from mobilenet_jax.errors import EvaluationError, WeightsError
    from mobilenet_jax.evaluation.calibration import FILE, read_calibration, whose
    from mobilenet_jax.inference.classifier import Classifier
    from mobilenet_jax.inference.predict_files import find_images, print_likeliest, write_predictions
    from mobilenet_jax.weights.load import read_weights

    def job() -> None:
        paths = find_images(args.images)
        weights = read_weights(args.model, checkpoint=args.checkpoint)
        correct = None
        if args.correct:
            calibration = read_calibration(args.model / FILE, whose(weights, args.tta))
            correct = functools.partial(calibration.correct, correction=args.correct)
        classifier = Classifier(weights, args.tta, correct)
        if args.out:
            faults = write_predictions(
                classifier,
                paths,
                args.out,
                form=args.format,
                batch_size=args.batch_size,
                explain=args.explain,
                explain_class=args.explain_class,
            )
            if len(faults) < len(paths):
                print(f"{args.out}: {len(paths) - len(faults)} images")
        elif args.explain:
            raise EvaluationError("--explain goes with --out")
        else:
            faults = print_likeliest(classifier, paths)
        if faults:
            for fault in faults[:-1]:
                print(fault, file=sys.stderr)
            raise EvaluationError(f"{len(faults)} of {len(paths)} images left out, the last: {faults[-1]}")

    run_as_command(job, (EvaluationError, WeightsError, OSError), debug=args.debug)
