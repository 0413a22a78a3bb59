"""Writes a model card with the weights and the configuration, ready to be published."""

import json
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from input_pipeline.atomic_files import write_atomically
from input_pipeline.errors import make_printable
from input_pipeline.preprocessing import MINKOWSKI_NORM
from input_pipeline.sources.registry import SOURCES
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.metrics import list_overall
from mobilenet_jax.evaluation.trained_run import ISIC_NAME, TrainedRun
from mobilenet_jax.reporting.limits import list_limits, name_object
from mobilenet_jax.reporting.published_config import strip_folders
from mobilenet_jax.weights.hub import strip_folder
from mobilenet_jax.weights.load import is_workdir, names_weights
from mobilenet_jax.weights.metadata import format_input_scaling
from mobilenet_jax.weights.save import write_weights

_CLASS_METRICS = ("recall", "precision", "auc")
_PLOTS = ("confusion.png", "reliability.png")
_OTHER_FILES = ("config.json", "model.safetensors", *_PLOTS)  # besides the card
_COUNTS = ("images", "lesions", "lesions_trained_on", "resamples")
_MARK = "\n- name: mobilenet-v1-"  # in the header of a card


def write_model_card(run: TrainedRun, evaluation: str, out: Path) -> None:
    """Writes `README.md` in the format of Hugging Face model cards, `model.safetensors`, `config.json` and two plots.

    Args:
        run: the run with the weights to publish.
        evaluation: name of the folder in `WORKDIR/evaluation` with the metrics to publish.
        out: created if it does not exist.

    Raises:
        EvaluationError: the evaluation is missing, or is of another checkpoint, of several views, or corrected; or
            `out` is a workdir, or holds files of these names that are not a model card's.
        OSError, WeightsError: a file cannot be written.
    """
    if is_workdir(out):
        raise EvaluationError(f"{out} is a workdir, whose config.json would be replaced: choose another --out")
    if (other := _find_other_file(out)) is not None:
        raise EvaluationError(f"{other} does not belong to a model card, and would be replaced: choose another --out")
    folder = run.workdir / "evaluation" / evaluation
    results = _read_metrics_json(run, folder)
    try:
        card, plots = _render_card(run, results), {name: (folder / name).read_bytes() for name in _PLOTS}
    except (OSError, KeyError, TypeError, ValueError, jinja2.UndefinedError) as error:
        raise EvaluationError(f"cannot read {folder} ({error}): run mobilenet-jax evaluate again") from error
    out.mkdir(parents=True, exist_ok=True)
    for name in _OTHER_FILES:  # those of an earlier card
        (out / name).unlink(missing_ok=True)
    write_atomically(out / "README.md", card)  # first, so that an interrupted command can be repeated
    write_weights(out / "model.safetensors", run.weights, force=True)
    write_atomically(out / "config.json", json.dumps(_build_config(run), indent=2) + "\n")
    for name, png in plots.items():
        write_atomically(out / name, png)


def is_model_card(text: str) -> bool:
    """Returns whether a `README.md` is a card that `write_model_card` wrote."""
    return _MARK in text


def _find_other_file(out: Path) -> Path | None:
    """Returns a file that would be replaced although no card has been written to `out`; None if there is none."""
    try:
        if is_model_card((out / "README.md").read_text(encoding="utf-8", errors="replace")):
            return None
    except OSError:  # it is missing, or no file
        pass
    return next((out / name for name in ("README.md", *_OTHER_FILES) if os.path.lexists(out / name)), None)


def _read_metrics_json(run: TrainedRun, folder: Path) -> dict[str, Any]:
    """Reads `metrics.json`, which must be of the weights to publish and of nothing else."""
    try:
        results: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
        weights, views, correction = (results[name] for name in ("weights", "views", "correction"))
        if any(type(results[name]) not in (int, type(None)) for name in _COUNTS):
            raise ValueError("a count is not a number")
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise EvaluationError(
            f"cannot read {folder / 'metrics.json'}: run mobilenet-jax evaluate {run.workdir} first, or choose another "
            "--evaluation"
        ) from error
    if weights != [run.weights.identity]:
        raise EvaluationError(
            f"{folder} is of the {', '.join(map(str, weights))}, not of the {run.weights.identity}: run mobilenet-jax "
            "evaluate again, or choose another --checkpoint"
        )
    if views != 1 or correction:
        raise EvaluationError(
            f"{folder} uses test-time augmentation or a correction, which are not part of the published weights: run "
            "mobilenet-jax evaluate without --tta and --correct"
        )
    return results


def _render_card(run: TrainedRun, results: dict[str, Any]) -> str:
    # The card is Markdown, whose values are escaped by the filters below, not by HTML's rules.
    environment = jinja2.Environment(  # nosec B701
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["escape_markdown"] = escape_markdown
    environment.filters["quote_yaml"] = quote_yaml
    source = files(__package__) / "templates" / "model_card.md.j2"
    (training_data, data_license), metadata = run.describe_training_data(), run.weights.metadata
    return environment.from_string(source.read_text(encoding="utf-8")).render(
        run=run,
        image_size=metadata.image_size,
        preprocessing=metadata.preprocessing,
        norm=MINKOWSKI_NORM,
        scaling=format_input_scaling(metadata.input_scaling),
        low_high=", ".join(f"np.array({value})" for value in metadata.input_scaling),
        results=results,
        noun=name_object(run),
        overall=[
            (label, _format_metric(results, name)) for name, (label, _) in list_overall(len(run.class_names)).items()
        ],
        classes=[
            (name, *(_format_metric(results, f"{name}.{metric}") for metric in _CLASS_METRICS))
            for name in run.class_names
        ],
        limits=list_limits(run),
        evaluation_data=_describe_evaluation_data(results),
        evaluation_data_is_isic=SOURCES[results["source"]].is_isic,
        training_data=training_data,
        data_license=data_license,
        initial_weights=_describe_initial_weights(run.config["init"]["weights"]),
    )


def _describe_initial_weights(weights: str | None) -> str:
    if weights is None or not names_weights(weights):
        return "random weights"
    return "the ImageNet weights of Keras" if weights == "imagenet" else strip_folder(weights)


def escape_markdown(text: str) -> str:
    """Returns a text that Markdown, and the HTML in it, shows as it is, in a single line."""
    return re.sub(r"([\\`*_\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))


def quote_yaml(text: str) -> str:
    """Returns a text as a string of YAML. Its characters stay as they are: YAML lacks JSON's pairs of escapes."""
    return json.dumps(make_printable(text), ensure_ascii=False)


def _build_config(run: TrainedRun) -> dict[str, Any]:
    """Returns the content of `config.json`."""
    weights = run.weights
    return {
        "architecture": "mobilenet_v1",
        "alpha": weights.architecture.alpha,
        "head": weights.architecture.head,
        "num_classes": weights.architecture.num_classes,
        "image_size": weights.metadata.image_size,
        "input_scaling": weights.metadata.input_scaling,
        **weights.metadata.preprocessing.list_changes(),
        "id2label": dict(enumerate(run.class_names)),
        "label2id": {name: i for i, name in enumerate(run.class_names)},
        "training": strip_folders(run.config),
    }


def _describe_evaluation_data(results: dict[str, Any]) -> str:
    source = results["source"]
    if SOURCES[source].is_isic:
        name = ISIC_NAME
    elif source == "sample":
        name = "synthetic lesions"
    else:
        name = f"images that are not published with the model, {results['data']}"
    return f"{name}, split {results['split']}"


def _format_metric(results: dict[str, Any], name: str) -> str:
    if name not in results["metrics"]:  # the evaluation was written by a version without this metric
        return "not available"
    value, (low, high) = results["metrics"][name], results["intervals"].get(name, (None, None))
    if value is None:
        return "undefined"
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")
