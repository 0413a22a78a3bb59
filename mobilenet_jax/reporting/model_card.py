"""`mobilenet-jax card`: a trained model as it is published: weights, configuration, and what is to be known of it."""

import copy
import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from input_pipeline.atomic_files import write_atomically
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.metrics import OVERALL
from mobilenet_jax.evaluation.trained_run import ISIC_SOURCES, Trained
from mobilenet_jax.reporting.report import list_limits
from mobilenet_jax.weights.save import write_weights


def write_model_card(run: Trained, evaluation: str, out: Path) -> None:
    """Writes `README.md` in the form of Hugging Face's model cards, `model.safetensors` and `config.json`.

    Args:
        run: whose model.
        evaluation: the name of the folder in `WORKDIR/evaluation` whose figures it gives.
        out: a folder, made if it is not there.

    Raises:
        EvaluationError: there is no such evaluation, or it is of another checkpoint, of several views, or corrected.
        OSError, WeightsError: the files cannot be written.
    """
    source = run.workdir / "evaluation" / evaluation
    try:
        found: dict[str, Any] = json.loads((source / "metrics.json").read_text())
    except (OSError, ValueError) as error:
        raise EvaluationError(f"cannot read {source / 'metrics.json'}: run mobilenet-jax evaluate first") from error
    if found["weights"] != [run.weights.identity]:
        raise EvaluationError(
            f"{source} is of the {found['weights'][0]}, not of the {run.weights.identity}: run mobilenet-jax evaluate "
            "again, or choose the --checkpoint"
        )
    if found["views"] > 1 or found["correction"]:
        raise EvaluationError(
            f"{source} is not of the weights alone, which a card is of: evaluate without --tta, --correct"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_weights(out / "model.safetensors", run.weights, force=True)
    write_atomically(out / "config.json", json.dumps(_configuration(run), indent=2) + "\n")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        (files(__package__) / "templates" / "model_card.md.j2").read_text(encoding="utf-8")
    )
    rows = [_row(label, figure, found) for figure, (label, _) in OVERALL.items()]
    classes = [
        (name, *(_cell(f"{name}.{f}", found) for f in ("recall", "precision", "auc"))) for name in run.class_names
    ]
    text = template.render(
        run=run,
        found=found,
        rows=rows,
        classes=classes,
        limits=list_limits(run),
        judged_name=_judged(found),
        judged_isic=found["source"] in ISIC_SOURCES,
        **_data(run),
    )
    write_atomically(out / "README.md", text)
    for picture in ("confusion.png", "reliability.png"):
        shutil.copyfile(source / picture, out / picture)


def _configuration(run: Trained) -> dict[str, Any]:
    weights = run.weights
    return {
        "architecture": "mobilenet_v1",
        "alpha": weights.architecture.alpha,
        "head": weights.architecture.head,
        "num_classes": weights.architecture.num_classes,
        "image_size": weights.metadata.image_size,
        "input_scaling": weights.metadata.input_scaling,
        "id2label": dict(enumerate(run.class_names)),
        "label2id": {name: i for i, name in enumerate(run.class_names)},
        "training": _without_paths(run.config),
    }


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without where files lay on the machine that trained, which is nobody else's business."""
    published = copy.deepcopy(config)
    for section, key in (("data", "dir"), ("data", "split"), ("init", "weights")):
        value = published[section][key]
        if value and not value.startswith("fold:"):
            published[section][key] = Path(value).name
    return published


def _judged(found: dict[str, Any]) -> str:
    """The images that figures are of."""
    name = {"sample": "drawn lesions", "folders": f"the user's own images, {found['data']}"}
    return f"{name.get(found['source'], 'ISIC 2018 Task 3 (HAM10000)')}, split {found['split']}"


def _data(run: Trained) -> dict[str, Any]:
    """What is known of the data's licence."""
    others = {
        "sample": ("drawn lesions that come with the code and are no medical data", "that of the code"),
        "folders": ("images of the user's own", "not known here"),
    }
    name, licence = others.get(run.config["data"]["source"], ("ISIC 2018 Task 3 (HAM10000)", "CC BY-NC 4.0"))
    start = Path(run.config["init"]["weights"] or "random weights").name
    return {"data_name": name, "data_licence": licence, "start": start}


def _row(label: str, figure: str, found: dict[str, Any]) -> tuple[str, str]:
    return label, _cell(figure, found)


def _cell(figure: str, found: dict[str, Any]) -> str:
    value, pair = found["metrics"][figure], found["intervals"].get(figure)
    if value is None:
        return "not defined"
    return f"{value:.3f}" + (f" [{pair[0]:.3f}, {pair[1]:.3f}]" if pair and pair[0] is not None else "")
