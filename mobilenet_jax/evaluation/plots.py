"""The figures of a report. scikit-learn computes them, matplotlib draws them, in colors all can tell apart."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

from mobilenet_jax.evaluation.predictions import Predictions

_BINS = 15


def draw_figures(predictions: Predictions) -> dict[str, Figure]:
    """A figure for each question, by the name of its file."""
    with matplotlib.style.context("petroff10"):
        drawings: dict[str, Callable[[Predictions], Figure]] = {
            "confusion": _confusion,
            "roc": _roc,
            "precision_recall": _precision_recall,
            "reliability": _reliability,
            "scores": _scores,
        }
        return {name: draw(predictions) for name, draw in drawings.items()}


def _confusion(predictions: Predictions) -> Figure:
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.subplots()
    names = predictions.class_names
    ConfusionMatrixDisplay.from_predictions(
        predictions.labels, predictions.predicted, labels=range(len(names)), display_labels=names, normalize="true",
        values_format=".2f", cmap="cividis", ax=axes, im_kw={"vmin": 0, "vmax": 1}, xticks_rotation=45,
    )  # fmt: skip
    counts = np.bincount(predictions.labels, minlength=len(names))
    axes.set_yticklabels([f"{name}\n{n} images" for name, n in zip(names, counts, strict=True)])
    axes.set(title="share of each class's images", xlabel="predicted", ylabel="true")
    return figure


def _present(predictions: Predictions) -> list[int]:
    """The classes that some images have and others have not."""
    counts = np.bincount(predictions.labels, minlength=len(predictions.class_names))
    return [c for c, n in enumerate(counts) if 0 < n < len(predictions)]


def _roc(predictions: Predictions) -> Figure:
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for c in _present(predictions):
        RocCurveDisplay.from_predictions(
            predictions.labels == c, predictions.probabilities[:, c], name=predictions.class_names[c], ax=axes
        )
    axes.plot([0, 1], [0, 1], ":", color="gray")
    axes.set(title="each class against the rest", xlabel="1 - specificity", ylabel="sensitivity (recall)")
    axes.grid(alpha=0.3)
    return figure


def _precision_recall(predictions: Predictions) -> Figure:
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for c in _present(predictions):
        PrecisionRecallDisplay.from_predictions(
            predictions.labels == c, predictions.probabilities[:, c], name=predictions.class_names[c], ax=axes
        )
    axes.set(title="each class against the rest", xlabel="recall (sensitivity)", ylabel="precision")
    axes.grid(alpha=0.3)
    return figure


def _reliability(predictions: Predictions) -> Figure:
    figure = Figure(figsize=(6, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    confidence, correct = predictions.probabilities.max(1), predictions.predicted == predictions.labels
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    some = counts > 0
    means, shares = (np.bincount(bins, x, _BINS)[some] / counts[some] for x in (confidence, correct))
    above.plot([0, 1], [0, 1], ":", color="gray", label="if it were calibrated")
    above.plot(means, shares, "o-", label="this model")
    above.set(title="is it right as often as it says?", ylabel="share that is right", ylim=(0, 1))
    above.legend()
    below.bar((np.arange(_BINS) + 0.5) / _BINS, counts, 0.9 / _BINS)
    below.set(xlabel="probability of the predicted class", ylabel="images", xlim=(0, 1))
    for axes in (above, below):
        axes.grid(alpha=0.3)
    return figure


def _scores(predictions: Predictions) -> Figure:
    names = predictions.class_names
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).flat
    edges = np.linspace(0, 1, 21)
    groups = (("other images", "C0"), ("images of the class", "C1"))
    for c, axes in enumerate(panels):
        if c >= len(names):
            axes.axis("off")
            continue
        for is_class, (_, color) in enumerate(groups):
            scores = predictions.probabilities[(predictions.labels == c) == is_class, c]
            weights = np.full(len(scores), 1 / max(1, len(scores)))
            axes.hist(scores, edges, weights=weights, alpha=0.6, color=color)
        axes.set_title(names[c], fontsize=9)
        axes.tick_params(labelbottom=c + columns >= len(names))
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
    patches = [Patch(color=color, alpha=0.6, label=label) for label, color in groups]
    figure.legend(handles=patches, loc="outside upper center", ncols=2)
    figure.supxlabel("probability of the class")
    figure.supylabel("share of images")
    return figure


def draw_curves(records: Sequence[dict[str, Any]]) -> Figure:
    """The article's figure: loss and accuracy of training and validation by epoch, and balanced accuracy."""
    epochs = [r["epoch"] for r in records]
    figure = Figure(figsize=(12, 3.6))  # a layout found by matplotlib takes three times as long, after every epoch
    axes = figure.subplots(1, 3, gridspec_kw={"left": 0.04, "right": 0.99, "bottom": 0.14, "top": 0.9, "wspace": 0.13})
    for axis, metric in zip(axes, ("loss", "accuracy", "balanced_accuracy"), strict=True):
        for side, name, style in (("train", "training", "o-"), ("val", "validation", "s-")):
            values = [r[f"{side}_{metric}"] for r in records]
            axis.plot(epochs, values, style, markersize=3, label=name)
        axis.set_xlabel("epoch")
        axis.set_title("loss (cross-entropy)" if metric == "loss" else metric.replace("_", " "))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.set_ylim(*((0, None) if metric == "loss" else (0, 1)))
    axes[0].legend()
    return figure
