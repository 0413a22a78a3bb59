"""Renders an evaluation as one HTML file without links to other files or to the network."""

import base64
import io
import json
import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from input_pipeline.image_files import read_image_bytes
from mobilenet_jax.evaluation.evaluate import Evaluation
from mobilenet_jax.evaluation.metrics import OVERALL, Description, list_overall
from mobilenet_jax.reporting.limits import list_limits, list_warnings, name_object
from mobilenet_jax.reporting.published_config import strip_folders

_MAX_THUMBNAILS = 24  # per gallery
_THUMBNAIL_WIDTH = 160  # pixels

_HEADLINE_METRICS = ("balanced_accuracy", "accuracy", "macro_auc", "malignant.auc", "MEL.recall", "ece")
_CLASS_METRICS = {
    "images": "images",
    "recall": "recall",
    "precision": "precision",
    "specificity": "specificity",
    "auc": "AUC",
    "average_precision": "AP",
    "specificity_at_90": "spec. at 90% sens.",
    "specificity_at_95": "spec. at 95% sens.",
}
_CAPTIONS = {  # captions and alternative texts of the plots
    "curves": "Learning curves: loss, accuracy and balanced accuracy by epoch. Dashed line: the best epoch.",
    "confusion": "Confusion matrix: the images of each class (row) that are assigned to each class (column), as a "
    "fraction of the row and, unless there are many classes, as a number.",
    "roc": "One-vs-rest ROC curves: sensitivity against 1 - specificity over all thresholds. Dotted: chance.",
    "precision_recall": "One-vs-rest precision-recall curves over all thresholds.",
    "reliability": "Reliability diagram: accuracy (top) and number of images (bottom) by confidence.",
    "scores": "Distribution of the predicted probability of each class, for images of the class and others.",
}
_REPRODUCIBILITY_FACTS = ("versions", "commit", "hardware", "seconds", "time")
_UNDEFINED = "–"


def render_html(evaluation: Evaluation, plots: Mapping[str, bytes], narrow_plots: Mapping[str, bytes]) -> str:
    """Renders the report.

    Args:
        evaluation: the evaluation.
        plots: PNG files by name, in the order in which they are shown.
        narrow_plots: PNG files that phones show instead of wide ones, by name.
    """
    facts, names, model = evaluation.facts, evaluation.predictions.class_names, evaluation.runs[0]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    source = files(__package__) / "templates" / "report.html.j2"
    rows = list(dict.fromkeys([*names, *(["malignant"] if facts["malignant"] else [])]))  # it can be a class, too
    return environment.from_string(source.read_text(encoding="utf-8")).render(
        title="Evaluation of a MobileNet on skin lesions" if model.shows_lesions else "Evaluation of a MobileNet",
        noun=name_object(model),
        shows_lesions=model.shows_lesions,
        facts=facts,
        warnings=list_warnings(evaluation),
        headline=[_format_metric(evaluation, name) for name in _HEADLINE_METRICS if name in evaluation.metrics],
        chance=f"{1 / len(names):.2g}",
        overall=[_format_metric(evaluation, name) for name in list_overall(len(names))],
        columns=list(_CLASS_METRICS.values()),
        classes=[
            {"name": row, "cells": [_format_metric(evaluation, f"{row}.{c}") for c in _CLASS_METRICS]} for row in rows
        ],
        plots=[
            {
                "data": _encode_data_url("png", png),
                "caption": _CAPTIONS[name],
                "narrow": _encode_data_url("png", narrow_plots[name]) if name in narrow_plots else None,
            }
            for name, png in plots.items()
        ],
        galleries=_build_galleries(evaluation),
        data=_count_classes(evaluation),
        limits=list_limits(model, facts["correction"]),
        reproducibility=[(name, _format_fact(facts[name])) for name in _REPRODUCIBILITY_FACTS],
        config=json.dumps(strip_folders(model.config), indent=2) if model.config else None,
    )


def _format_metric(evaluation: Evaluation, name: str) -> dict[str, str]:
    default = Description(name.replace(".", " ").replace("auc", "AUC"), "")
    label, definition = OVERALL.get(name, default)
    value, (low, high) = evaluation.metrics[name], evaluation.intervals.get(name, (math.nan, math.nan))
    if name.endswith(".images"):
        formatted, interval = f"{value:.0f}", ""
    else:
        formatted = _UNDEFINED if math.isnan(value) else f"{value:.3f}"
        interval = "" if math.isnan(low) else f"[{low:.3f}, {high:.3f}]"
    return {"name": label, "value": formatted, "interval": interval, "definition": definition}


def _count_classes(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Returns the images, lesions and training frequency of each class; the last one is None if it is not known."""
    predictions, priors = evaluation.predictions, [run.prior for run in evaluation.runs if run.prior is not None]
    prior = np.mean(priors, axis=0) if priors else None
    rows = []
    for c, name in enumerate(predictions.class_names):
        members = predictions.labels == c
        lesions = len(set(predictions.lesions[members])) if predictions.lesions_known else _UNDEFINED
        frequency = None if prior is None else f"{prior[c]:.1%}"
        rows.append({"name": name, "images": int(members.sum()), "lesions": lesions, "frequency": frequency})
    return rows


def _build_galleries(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Returns the galleries that have images, with their titles and notes."""
    predictions = evaluation.predictions
    p = predictions.probabilities
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    worst = wrong[np.argsort(p[wrong, predictions.labels[wrong]], kind="stable")]
    ascending = np.sort(p, axis=1)
    least_certain = np.argsort(ascending[:, -1] - ascending[:, -2], kind="stable")
    galleries = (
        ("Worst errors", "Wrong predictions, ordered by the probability of the true class, lowest first.", worst),
        (
            "Least certain predictions",
            "Smallest margin between the two most probable classes, whether the prediction is correct or not.",
            least_certain,
        ),
    )
    return [
        {"title": title, "note": note, "thumbnails": [_build_thumbnail(evaluation, i) for i in rows[:_MAX_THUMBNAILS]]}
        for title, note, rows in galleries
        if len(rows)
    ]


def _build_thumbnail(evaluation: Evaluation, row: int) -> dict[str, str]:
    predictions = evaluation.predictions
    label, predicted, p = predictions.labels[row], predictions.predicted[row], predictions.probabilities[row]
    with Image.open(io.BytesIO(read_image_bytes(evaluation.paths[row]))) as image:
        thumbnail = image.convert("RGB")
        thumbnail.thumbnail((_THUMBNAIL_WIDTH, _THUMBNAIL_WIDTH))
    thumbnail.save(jpeg := io.BytesIO(), "JPEG", quality=80)
    return {
        "data": _encode_data_url("jpeg", jpeg.getvalue()),
        "image": predictions.images[row],
        "label": predictions.class_names[label],
        "label_p": f"{p[label]:.2f}",
        "predicted": predictions.class_names[predicted],
        "predicted_p": f"{p[predicted]:.2f}",
    }


def _encode_data_url(image_format: str, content: bytes) -> str:
    return f"data:image/{image_format};base64,{base64.b64encode(content).decode()}"


def _format_fact(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
