"""Plots of metrics and learning curves, in a color cycle that color-blind readers can tell apart.

A plot has no title, unless it shows a part of the classes: the report and the model card have it in the text around it.
scikit-learn computes the confusion matrix and the ROC and precision-recall curves, matplotlib draws them. Its automatic
layouts double the time of a figure, so only figures with names of classes or runs on their margins have one.
"""

import io
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay, confusion_matrix

from input_pipeline.fonts import find_fonts
from mobilenet_jax.evaluation.metrics import CALIBRATION_BINS, assign_bins
from mobilenet_jax.evaluation.predictions import Predictions

_MAX_NAME = 20  # characters of the name of a class or a run
_MAX_CURVES = 10  # the color cycle has as many colors
_MAX_CLASSES = 25  # with a score histogram, or with numbers in the confusion matrix
_MAX_LABELS = 100  # classes whose names fit beside the confusion matrix
_MAX_SIDE = 20.0  # inches, of the confusion matrix
_MARGINS = {"left": 0.12, "right": 0.97, "bottom": 0.11, "top": 0.93}  # of a figure of 6 x 5 inches
_CURVES = {  # metrics of a record, without `train_` or `val_`, and their titles
    "loss": "Loss (cross-entropy)",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
}


def draw_figures(predictions: Predictions) -> dict[str, Figure]:
    """Draws the plots of a report, by the name of their file without its suffix."""
    drawings: dict[str, Callable[[Predictions], Figure]] = {
        "confusion": _draw_confusion_matrix,
        "roc": _draw_roc_curves,
        "precision_recall": _draw_precision_recall_curves,
        "reliability": _draw_reliability_diagram,
        "scores": draw_score_histograms,
    }
    with _use_style(predictions.class_names):
        return {name: draw(predictions) for name, draw in drawings.items()}


def draw_curves(records: Sequence[Mapping[str, Any]], best_epoch: int | None, *, narrow: bool = False) -> Figure:
    """Draws loss and accuracy of training and validation by epoch, as in the article, and balanced accuracy.

    Args:
        records: the records of the epochs, as in `metrics.jsonl`.
        best_epoch: the epoch to mark; None marks none.
        narrow: whether the three panels are below each other, for phones.
    """
    epochs = [r["epoch"] for r in records]
    margins = {"left": 0.04, "right": 0.99, "bottom": 0.14, "top": 0.9, "wspace": 0.13}
    narrow_margins = {"left": 0.1, "right": 0.98, "bottom": 0.05, "top": 0.97, "hspace": 0.35}
    with _use_style():
        figure = Figure(figsize=(5, 10) if narrow else (12, 3.6))
        panels = figure.subplots(*((3, 1) if narrow else (1, 3)), gridspec_kw=narrow_margins if narrow else margins)
        for axes, (metric, title) in zip(panels, _CURVES.items(), strict=True):
            for prefix, label, style in (("train", "training", "o-"), ("val", "validation", "s-")):
                name = f"{prefix}_{metric}"
                if all(name in r for r in records):  # a run on all images has no validation
                    axes.plot(epochs, [r[name] for r in records], style, markersize=3, label=label)
            if best_epoch is not None:
                axes.axvline(best_epoch, color="gray", linestyle="--", linewidth=1, label=f"best epoch, {best_epoch}")
            _label_epochs(axes, title)
            axes.set_ylim(*((0, None) if metric == "loss" else (0, 1)))
        panels[1].legend(loc="lower right")  # the loss may be anywhere
        return figure


def draw_comparison(
    records: Mapping[str, Sequence[Mapping[str, Any]]], best_epochs: Mapping[str, int | None]
) -> Figure:
    """Draws the learning curves of several runs on shared axes: validation as solid, training as dotted lines.

    Args:
        records: the records of the epochs, as in `metrics.jsonl`, by the name of the run.
        best_epochs: the epoch to mark with a star, by the name of the run; None marks none.
    """
    with _use_style(records):
        figure = Figure(figsize=(12, 3.6), layout="constrained")
        panels = figure.subplots(1, 3)
        for axes, (metric, title) in zip(panels, _CURVES.items(), strict=True):
            for name, run in records.items():
                epochs = [r["epoch"] for r in run]
                values = [r.get(f"val_{metric}", math.nan) for r in run]
                [line] = axes.plot(epochs, values, "o-", markersize=3, label=_format_name(name))
                axes.plot(epochs, [r[f"train_{metric}"] for r in run], ":", color=line.get_color())
                best = [r for r in run if r["epoch"] == best_epochs[name]]
                axes.plot(
                    [r["epoch"] for r in best],
                    [r.get(f"val_{metric}", math.nan) for r in best],
                    "*",
                    markersize=12,
                    color=line.get_color(),
                )
            _label_epochs(axes, title)
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(records), 4),
            title="solid: validation, dotted: training, star: best epoch",
        )  # fmt: skip
    return figure


def encode_png(figure: Figure, dpi: int = 110) -> bytes:
    """Renders a figure as a PNG file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # `find_fonts` has warned of them
        figure.savefig(png := io.BytesIO(), format="png", dpi=dpi)
    return png.getvalue()


def _use_style(names: Iterable[str] = ()) -> AbstractContextManager[None]:
    """Returns a context for new figures that contain names of classes or runs; these may contain dollar signs."""
    return matplotlib.style.context(
        ("petroff10", {"text.parse_math": False, "font.family": find_fonts(map(_format_name, names))})
    )


def _format_name(name: str) -> str:
    """Returns the name of a class or a run as a label, with a space before `_`: legends hide labels with that."""
    short = name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"
    return f" {short}" if short.startswith("_") else short


def _label_epochs(axes: Axes, title: str) -> None:
    axes.set(title=title, xlabel="Epoch")
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)


def _draw_confusion_matrix(predictions: Predictions) -> Figure:
    names = list(map(_format_name, predictions.class_names))
    side = min(max(5.4, 0.75 * len(names)), _MAX_SIDE)  # inches; a cell holds two lines of text
    figure = Figure(figsize=(1.1 * side, side), layout="constrained")
    axes = figure.subplots()
    counts = confusion_matrix(predictions.labels, predictions.predicted, labels=range(len(names)))
    totals = counts.sum(1)
    shares = counts / np.maximum(totals, 1)[:, None]
    display = ConfusionMatrixDisplay(shares, display_labels=names)
    has_numbers = len(names) <= _MAX_CLASSES
    display.plot(
        cmap="cividis", ax=axes, im_kw={"vmin": 0, "vmax": 1}, xticks_rotation=45, colorbar=not has_numbers,
        include_values=has_numbers,
    )  # fmt: skip
    if has_numbers:
        for text, share, count in zip(display.text_.flat, shares.flat, counts.flat, strict=True):
            text.set(text=f"{share:.2f}\n{count}", fontsize=10)
        axes.set_yticklabels([f"{name}\n{n} images" for name, n in zip(names, totals, strict=True)])
    elif len(names) > _MAX_LABELS:
        axes.set(xticks=[], yticks=[])
    axes.set(xlabel="Predicted class", ylabel="True class")
    return figure


def _draw_roc_curves(predictions: Predictions) -> Figure:
    figure, axes = _draw_one_vs_rest(predictions, RocCurveDisplay.from_predictions)
    axes.plot([0, 1], [0, 1], ":", color="gray", label="chance")
    axes.legend(loc="lower right")
    axes.set(xlabel="False positive rate (1 - specificity)", ylabel="True positive rate (sensitivity, recall)")
    return figure


def _draw_precision_recall_curves(predictions: Predictions) -> Figure:
    figure, axes = _draw_one_vs_rest(predictions, PrecisionRecallDisplay.from_predictions)
    axes.set(xlabel="Recall (sensitivity)", ylabel="Precision")
    return figure


def _draw_one_vs_rest(predictions: Predictions, draw: Callable[..., object]) -> tuple[Figure, Axes]:
    """Draws one curve for each class that has both positive and negative images."""
    figure = Figure(figsize=(6, 5))
    axes = figure.subplots(gridspec_kw=_MARGINS)
    counts = np.bincount(predictions.labels, minlength=len(predictions.class_names))
    for c in _select_classes(predictions, _MAX_CURVES):
        if 0 < counts[c] < len(predictions):
            name = _format_name(predictions.class_names[c])
            draw(predictions.labels == c, predictions.probabilities[:, c], name=name, ax=axes)
    axes.set_title(_describe_selection(predictions, _MAX_CURVES))
    axes.grid(alpha=0.3)
    return figure, axes


def _select_classes(predictions: Predictions, number: int) -> np.ndarray:
    """Returns at most `number` classes in their order: those with the most images."""
    counts = np.bincount(predictions.labels, minlength=len(predictions.class_names))
    return np.sort(np.argsort(-counts, kind="stable")[:number])


def _describe_selection(predictions: Predictions, number: int) -> str:
    """Returns the title of a plot of `number` classes; empty if these are all."""
    return "" if len(predictions.class_names) <= number else f"The {number} classes with the most images"


def _draw_reliability_diagram(predictions: Predictions) -> Figure:
    confidence, correct = predictions.probabilities.max(1), predictions.predicted == predictions.labels
    bins = assign_bins(confidence)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    mean_confidence, accuracy = (
        np.bincount(bins, values, CALIBRATION_BINS)[filled] / counts[filled] for values in (confidence, correct)
    )
    figure = Figure(figsize=(6, 5))
    curve, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1), gridspec_kw={**_MARGINS, "hspace": 0.1})
    curve.plot([0, 1], [0, 1], ":", color="gray", label="perfect calibration")
    curve.plot(mean_confidence, accuracy, "o-", label="model")
    curve.set(ylabel="Accuracy", ylim=(0, 1))
    curve.legend(loc="lower right")
    histogram.bar((np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS, counts, 0.9 / CALIBRATION_BINS)
    histogram.set(xlabel="Confidence (probability of the predicted class)", ylabel="Images", xlim=(0, 1))
    histogram.yaxis.set_major_formatter(EngFormatter(sep=""))  # large numbers do not fit
    for axes in (curve, histogram):
        axes.grid(alpha=0.3)
    return figure


def draw_score_histograms(predictions: Predictions, *, narrow: bool = False) -> Figure:
    """Draws the distribution of the predicted probability of each class, for images of the class and others.

    Args:
        predictions: the predictions.
        narrow: whether at most two panels are beside each other, for phones, instead of four.
    """
    with _use_style(predictions.class_names):
        return _draw_score_panels(predictions, columns=2 if narrow else 4)


def _draw_score_panels(predictions: Predictions, columns: int) -> Figure:
    classes = _select_classes(predictions, _MAX_CLASSES)
    columns = min(columns, len(classes))
    rows = -(-len(classes) // columns)
    title, legend_columns = _describe_selection(predictions, _MAX_CLASSES), 1 if columns < 3 else 2
    header = 0.45 + 0.2 * (3 - legend_columns) + (0.2 if title else 0)  # inches: the legend, and titles of panels
    width, height = 2.6 * columns, 0.7 + header + 1.7 * rows
    figure = Figure(figsize=(width, height))
    margins = {"left": 0.75 / width, "right": 1 - 0.1 / width, "bottom": 0.6 / height, "top": 1 - header / height}
    panels = figure.subplots(
        rows, columns, sharex=True, squeeze=False, gridspec_kw={**margins, "hspace": 0.25, "wspace": 0.25}
    ).flat
    edges = np.linspace(0, 1, 21)
    groups = (("images of other classes", "C0"), ("images of the class", "C1"))
    for i, axes in enumerate(panels):
        if i >= len(classes):
            axes.axis("off")
            continue
        c = classes[i]
        for is_class, (_, color) in enumerate(groups):
            scores = predictions.probabilities[(predictions.labels == c) == is_class, c]
            weights = np.full(len(scores), 1 / max(1, len(scores)))
            axes.hist(scores, edges, weights=weights, histtype="stepfilled", alpha=0.6, color=color)
        axes.set_title(_format_name(predictions.class_names[c]), fontsize=9)
        axes.tick_params(labelbottom=i + columns >= len(classes))
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
    patches = [Patch(color=color, alpha=0.6, label=label) for label, color in groups]
    figure.legend(handles=patches, loc="upper center", ncols=legend_columns, title=title)
    figure.supxlabel("Predicted probability of the class", y=0.1 / height)
    figure.supylabel("Fraction of images")
    return figure
