"""An evaluation as files: `metrics.json`, `predictions.csv`, PNGs, and `report.html`, which needs no network."""

import base64
import io
import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from input_pipeline.atomic_files import write_atomically
from input_pipeline.image_files import read_image_bytes
from mobilenet_jax.evaluation.evaluate import Evaluation
from mobilenet_jax.evaluation.metrics import OVERALL
from mobilenet_jax.evaluation.plots import draw_curves, draw_figures
from mobilenet_jax.evaluation.trained_run import Trained

_THUMBS, _THUMB_WIDTH = 24, 160  # of each gallery; pixels

_COLUMNS = {
    "images": "images",
    "recall": "recall",
    "precision": "precision",
    "specificity": "specificity",
    "auc": "AUC",
    "average_precision": "AP",
    "specificity_at_90": "spec. at 90%",
    "specificity_at_95": "spec. at 95%",
}
_ALTS = {
    "curves": "Training: loss, accuracy and balanced accuracy by epoch",
    "confusion": "Confusion matrix: what the images of each class (rows) were predicted to be (columns)",
    "roc": "ROC: sensitivity against 1 - specificity at every threshold; the dotted line is guessing",
    "precision_recall": "Precision against recall at every threshold",
    "reliability": "Reliability: how often it is right (above) and how many images there are (below) by confidence",
    "scores": "How the probability of each class is distributed over images of that class and over others",
}
_WIDE = ("curves", "scores")
_LIMITS = (
    "It knows only the classes above: anything else, a healthy patch or a photograph of a hand, gets one of them too.",
    "The best checkpoint of a run is chosen on its validation split, so figures on that split flatter it a little; "
    "those on a test set do not.",
)
_LIMITS_OF_ISIC = (
    "Trained and measured on images of one archive, from few clinics, of mostly light skin; on other cameras, clinics "
    "or skin tones it is likely to be worse, by an amount nobody has measured.",
    "Labels are the archive's: about half rest on histopathology, the others on follow-up or expert consensus.",
)


def list_limits(run: Trained) -> tuple[str, ...]:
    """What a model is not to be trusted in, a sentence or two each."""
    return (*_LIMITS, *_LIMITS_OF_ISIC) if run.is_isic else _LIMITS


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Writes all files into a folder, each whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    predictions, run = evaluation.predictions, evaluation.runs[0]
    figures = draw_figures(predictions)
    if run.records and len(evaluation.runs) == 1:
        figures = {"curves": draw_curves(run.records), **figures}
    pictures = {name: _png(figure) for name, figure in figures.items()}
    for name, png in pictures.items():
        write_atomically(folder / f"{name}.png", png)
    write_atomically(folder / "predictions.csv", predictions.as_csv())
    write_atomically(folder / "metrics.json", json.dumps(as_json(evaluation), indent=2) + "\n")
    write_atomically(folder / "report.html", _html(evaluation, pictures))


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """What `metrics.json` holds: `metrics`, `intervals` of 95%, and facts; null for what is not defined."""
    intervals = {name: [_defined(x) for x in pair] for name, pair in evaluation.intervals.items()}
    metrics = {name: _defined(value) for name, value in evaluation.metrics.items()}
    return {**evaluation.facts, "metrics": metrics, "intervals": intervals}


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _html(evaluation: Evaluation, pictures: dict[str, bytes]) -> str:
    facts, predictions, run = evaluation.facts, evaluation.predictions, evaluation.runs[0]
    names = predictions.class_names
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        (files(__package__) / "templates" / "report.html.j2").read_text(encoding="utf-8")
    )
    rows = [*names, *(["malignant"] if facts["malignant"] else [])]
    headline = ["balanced_accuracy", "accuracy", "macro_auc", "malignant.auc", "MEL.recall", "ece"]
    data = [
        {
            "name": name,
            "images": int((predictions.labels == c).sum()),
            "lesions": len(set(predictions.lesions[predictions.labels == c])) if predictions.lesions_known else "–",
            "share": f"{run.prior[c]:.1%}",
        }
        for c, name in enumerate(names)
    ]
    return template.render(
        title="Evaluation of a MobileNet on skin lesions" if "MEL" in names else "Evaluation of a MobileNet",
        facts=facts,
        warnings=list_warnings(evaluation),
        headline=[_figure(evaluation, name) for name in headline if name in evaluation.metrics],
        guessing=f"{1 / len(names):.2f}",
        overall=[_figure(evaluation, name) for name in OVERALL],
        columns=list(_COLUMNS.values()),
        classes=[{"name": r, "cells": [_figure(evaluation, f"{r}.{c}") for c in _COLUMNS]} for r in rows],
        pictures=[
            {"data": _data("png", png), "alt": _ALTS[name], "wide": name in _WIDE} for name, png in pictures.items()
        ],
        galleries=_galleries(evaluation),
        data=data,
        limits=list_limits(run),
        made=[(k, _text(facts[k])) for k in ("versions", "commit", "hardware", "seconds", "time")],
        config=json.dumps(run.config, indent=2),
    )


def list_warnings(evaluation: Evaluation) -> list[str]:
    """What a reader of the figures is to know before them."""
    facts, found = evaluation.facts, []
    if facts["source"] == "sample":
        found.append("These images are drawn by a program, and no medical data.")
    if facts["split"] == "training":
        found.append(
            "These images were trained on: the figures show what was learnt by heart, not how good the model is."
        )
    elif facts["lesions_trained_on"]:
        found.append(
            f"{facts['lesions_trained_on']} of the {facts['lesions']} lesions were trained on, in these images or "
            "others: the figures are too good."
        )
    if facts["lesions"] is None:
        found.append(
            "It is not known which of these images show the same lesion: intervals are drawn by image, and may be too "
            "narrow; whether lesions here were trained on is not known either."
        )
    counts = np.bincount(evaluation.predictions.labels, minlength=len(evaluation.predictions.class_names))
    few = [f"{n} {c}" for n, c in zip(evaluation.predictions.class_names, counts, strict=True) if c < 10]
    if few:
        found.append(f"Classes with fewer than ten images here: {', '.join(few)}. Their figures mean little.")
    return found


def _figure(evaluation: Evaluation, name: str) -> dict[str, str]:
    label, meaning = OVERALL.get(name, (name.replace(".", " ").replace("auc", "AUC"), ""))
    value, pair = evaluation.metrics[name], evaluation.intervals.get(name)
    if name.endswith(".images"):
        return {"name": label, "value": f"{value:.0f}", "interval": "", "meaning": meaning}
    shown = "–" if math.isnan(value) else f"{value:.3f}"
    interval = "" if pair is None or math.isnan(pair[0]) else f"[{pair[0]:.3f}, {pair[1]:.3f}]"
    return {"name": label, "value": shown, "interval": interval, "meaning": meaning}


def _galleries(evaluation: Evaluation) -> list[dict[str, Any]]:
    predictions = evaluation.predictions
    p = predictions.probabilities
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    worst = wrong[np.argsort(p[wrong, predictions.labels[wrong]], kind="stable")][:_THUMBS]
    top = np.sort(p, axis=1)
    least = np.argsort(top[:, -1] - top[:, -2], kind="stable")[:_THUMBS]
    galleries = (
        (
            "The worst mistakes",
            "Wrong predictions with the least probability for the true class, the worst first.",
            worst,
        ),
        ("The least sure", "The smallest gap between the two likeliest classes, whether right or wrong.", least),
    )
    return [
        {"title": title, "note": note, "thumbs": [_thumb(evaluation, i) for i in chosen]}
        for title, note, chosen in galleries
        if len(chosen)
    ]


def _thumb(evaluation: Evaluation, i: int) -> dict[str, str]:
    predictions = evaluation.predictions
    label, predicted, p = predictions.labels[i], predictions.predicted[i], predictions.probabilities[i]
    with Image.open(io.BytesIO(read_image_bytes(evaluation.paths[i]))) as image:
        small = image.convert("RGB")
        small.thumbnail((_THUMB_WIDTH, _THUMB_WIDTH))
    small.save(jpeg := io.BytesIO(), "JPEG", quality=80)
    return {
        "data": _data("jpeg", jpeg.getvalue()),
        "image": predictions.images[i],
        "label": predictions.class_names[label],
        "label_p": f"{p[label]:.2f}",
        "predicted": predictions.class_names[predicted],
        "predicted_p": f"{p[predicted]:.2f}",
    }


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _png(figure: Figure) -> bytes:
    figure.savefig(png := io.BytesIO(), format="png", dpi=110)
    return png.getvalue()


def _text(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
