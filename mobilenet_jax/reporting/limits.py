"""The limitations of a model, and warnings about an evaluation, as sentences for reports and model cards."""

from collections.abc import Sequence

import numpy as np
from flax.traverse_util import flatten_dict

from mobilenet_jax.evaluation.calibration import Correction
from mobilenet_jax.evaluation.evaluate import Evaluation
from mobilenet_jax.evaluation.trained_run import EvaluatedModel
from mobilenet_jax.weights.orbax import parse_checkpoint_name

_MAX_ITEMS = 10  # classes that a warning names
_MIN_UNITS = 10  # lesions or images per class; metrics of classes with fewer are reported as unreliable

# Settings in which the folds of one recipe may differ. The recipe may choose the number of epochs.
_OF_ONE_FOLD = {
    "seed", "data.dir", "data.split", "data.cache", "init.weights", "loss.soft_labels", "train.epochs",
    "model.num_classes",
}  # fmt: skip

_ANY_IMAGE = "The model knows only the classes above and assigns one of them to every image, "
_LESIONS_ONLY = f"{_ANY_IMAGE}including healthy skin or a photograph of a hand."
_CLASSES_ONLY = f"{_ANY_IMAGE}including images that show none of them."
_SELECT = "select the best checkpoint"
_SELECTION = (
    "The validation split of a run was used to {}, so metrics on that split are optimistic. Metrics on a test set are "
    "not."
)
_PRECISION = "Precision holds for the class frequencies of the evaluated images. Where a class is rarer, it is lower."
_ALL_IMAGES = (
    "The model was trained on all images of its data set, without a validation split: only images from elsewhere "
    "measure how well it generalizes."
)
_CORRECTED_CLASSES = (
    "The probabilities are corrected to those of equally common classes. Where a class is rare, its probability is too "
    "high."
)
_UNKNOWN_TRAINING = "The images that these weights were trained on are not known."
_ISIC_LIMITS = (
    "Trained on images of one archive, from few clinics and mostly of light skin. Performance on other cameras, "
    "clinics or skin tones is likely to be lower.",
    "About half of the archive's labels are confirmed by histopathology, the others by follow-up or expert consensus.",
)


def name_object(model: EvaluatedModel) -> str:
    """Returns the noun for the thing that several images can show: `lesion`, or `object` in other data."""
    return "lesion" if model.shows_lesions else "object"


def list_limits(model: EvaluatedModel, correction: Correction | None = None) -> tuple[str, ...]:
    """Lists the limitations of a model whose probabilities are corrected, or not."""
    classes = _LESIONS_ONLY if model.shows_lesions else _CLASSES_ONLY
    if model.config is None:
        return classes, _UNKNOWN_TRAINING, _PRECISION
    uses = _list_uses_of_validation(model)
    selection = (_SELECTION.format(" and to ".join(uses)),) if uses else ()
    training = (_ALL_IMAGES,) if model.config["data"]["split"] == "all" else selection
    prior = filter(None, [_CORRECTED_CLASSES if correction == "prior" else model.describe_prior()])
    return (classes, *training, *prior, _PRECISION, *(_ISIC_LIMITS if model.is_isic else ()))


def _list_uses_of_validation(model: EvaluatedModel) -> list[str]:
    """Lists the uses of the validation split of a run, as phrases that follow "used to"."""
    config = model.config or {}
    stopping = {"enabled": False, "monitor": "val_loss"} | config.get("early_stopping", {})
    is_best = parse_checkpoint_name(model.weights.identity) == "best"
    monitors_validation = str(stopping["monitor"]).startswith("val_")
    uses = {
        _SELECT: is_best and (monitors_validation or not stopping["enabled"]),
        "stop training early": stopping["enabled"] and monitors_validation,
        "lower the learning rate": config.get("optimizer", {}).get("schedule") == "plateau",
    }
    return [use for use, is_active in uses.items() if is_active]


def list_warnings(evaluation: Evaluation) -> list[str]:
    """Lists the reasons why a model or its metrics may be misleading, the most serious ones first."""
    return [
        *_list_missed_classes(evaluation),
        *_list_data_warnings(evaluation),
        *_list_selection(evaluation),
        *_list_mixed_settings(evaluation.runs),
        *_list_absent_classes(evaluation),
        *_list_rare_classes(evaluation),
    ]


def _list_missed_classes(evaluation: Evaluation) -> list[str]:
    predictions = evaluation.predictions
    recognized = set(predictions.labels[predictions.predicted == predictions.labels].tolist())
    names, counts = _count_images(evaluation)
    missed = [c for c, n in enumerate(counts) if n and c not in recognized]
    described = [f"{names[c]} ({counts[c]} image{'' if counts[c] == 1 else 's'})" for c in missed]
    return [f"The recall is 0 for {_join(described)}: none of their images is recognized."] if missed else []


def _list_data_warnings(evaluation: Evaluation) -> list[str]:
    facts, model, warnings = evaluation.facts, evaluation.runs[0], []
    noun = name_object(model)
    if facts["source"] == "sample":
        warnings.append("These images are synthetic. They are not medical data.")
    if model.images is None:
        warnings.append(
            "The images that these weights were trained on are not known. If some of these images are among them, the "
            "metrics are optimistic."
        )
    elif facts["split"] == "training":
        warnings.append("The model was trained on these images: the metrics measure memorization, not generalization.")
    elif facts["lesions_trained_on"]:
        warnings.append(
            f"{facts['lesions_trained_on']} of the {facts['lesions']} {noun}s are in the training set, with these or "
            "other images, so the metrics are optimistic."
        )
    elif facts["images_trained_on"]:
        warnings.append(
            f"{facts['images_trained_on']} of the {facts['images']} images are in the training set, so the metrics are "
            "optimistic."
        )
    elif facts["lesions_trained_on"] is None and (facts["lesions"] is not None or facts["images_trained_on"] is None):
        images = "these images" if facts["lesions"] is None else f"other images of these {noun}s"
        warnings.append(f"It is not known whether {images} are in the training set. If so, the metrics are optimistic.")
    if facts["lesions"] is None:
        warnings.append(
            f"It is not known which of these images show the same {noun}: the bootstrap resamples images, so the "
            f"intervals may be too narrow, and other images of these {noun}s may be in the training set."
        )
    return warnings


def _list_selection(evaluation: Evaluation) -> list[str]:
    if len(evaluation.runs) == 1 or evaluation.facts["split"] != "validation":
        return []
    uses = _list_uses_of_validation(evaluation.runs[0])
    if not uses:
        return []
    hint = ": use --checkpoint=latest" if uses == [_SELECT] else ""
    return [
        f"The images that each model is evaluated on were used to {' and to '.join(uses)}, so the metrics are "
        f"optimistic{hint}."
    ]


def _list_mixed_settings(runs: Sequence[EvaluatedModel]) -> list[str]:
    if len(runs) == 1:
        return []
    configs = [flatten_dict(run.config or {}, sep=".") for run in runs]
    keys = sorted(set.intersection(*map(set, configs)) - _OF_ONE_FOLD)  # versions differ in the keys that they have
    values = {key: {str(config[key]) for config in configs} for key in keys}
    mixed = [f"{key} ({', '.join(sorted(different))})" for key, different in values.items() if len(different) > 1]
    if not mixed:
        return []
    return [
        f"The models were trained with different settings: {'; '.join(mixed)}. The joint metrics do not describe a "
        "single recipe."
    ]


def _list_absent_classes(evaluation: Evaluation) -> list[str]:
    names, counts = _count_images(evaluation)
    absent = [name for name, n in zip(names, counts, strict=True) if not n]
    if not absent:
        return []
    return [
        f"There are no images of {_join(absent)}: means over classes, such as balanced accuracy, are over the "
        f"other {len(names) - len(absent)} of {len(names)} classes."
    ]


def _list_rare_classes(evaluation: Evaluation) -> list[str]:
    predictions = evaluation.predictions
    known = evaluation.facts["lesions"] is not None
    noun = name_object(evaluation.runs[0]) if known else "image"
    units = predictions.lesions if known else predictions.images
    counts = [len(set(units[predictions.labels == c])) for c in range(len(predictions.class_names))]
    rare = [f"{name} {n}" for name, n in zip(predictions.class_names, counts, strict=True) if 0 < n < _MIN_UNITS]
    if not rare:
        return []
    return [
        f"Classes with fewer than {_MIN_UNITS} {noun}s: {_join(rare)}. Their metrics and all means over classes "
        "are unreliable."
    ]


def _count_images(evaluation: Evaluation) -> tuple[Sequence[str], np.ndarray]:
    """Returns the names of the classes and their numbers of images."""
    predictions = evaluation.predictions
    names = predictions.class_names
    return names, np.bincount(predictions.labels, minlength=len(names))


def _join(items: Sequence[str]) -> str:
    """Joins the first items, and counts the others."""
    more = len(items) - _MAX_ITEMS
    return ", ".join(items[:_MAX_ITEMS]) + (f" and {more} more" if more > 0 else "")
