"""The limitations of a model, and warnings about an evaluation, as sentences for reports and model cards."""

import numpy as np

from mobilenet_jax.evaluation.evaluate import Evaluation
from mobilenet_jax.evaluation.trained_run import TrainedRun

_MIN_IMAGES = 10  # per class; metrics of classes with fewer are reported as unreliable

_LIMITS = (
    "The model knows only the classes above and assigns one of them to every image, including healthy skin or a "
    "photograph of a hand.",
    "The best checkpoint of a run is selected on its validation split, so metrics on that split are slightly "
    "optimistic. Metrics on a test set are not.",
)
_ISIC_LIMITS = (
    "Trained and evaluated on images of one archive, from few clinics and mostly of light skin. Performance on other "
    "cameras, clinics or skin tones is likely to be lower, by an amount that has not been measured.",
    "The labels are the archive's: about half are confirmed by histopathology, the others by follow-up or expert "
    "consensus.",
)


def list_limits(run: TrainedRun) -> tuple[str, ...]:
    """Lists the limitations of a model."""
    return (*_LIMITS, *_ISIC_LIMITS) if run.is_isic else _LIMITS


def list_warnings(evaluation: Evaluation) -> list[str]:
    """Lists the reasons why the metrics of an evaluation may be misleading."""
    facts, predictions, warnings = evaluation.facts, evaluation.predictions, []
    if facts["source"] == "sample":
        warnings.append("These images are synthetic. They are not medical data.")
    if facts["split"] == "training":
        warnings.append("The model was trained on these images: the metrics measure memorization, not generalization.")
    elif facts["lesions_trained_on"]:
        warnings.append(
            f"{facts['lesions_trained_on']} of the {facts['lesions']} lesions are in the training set, with these or "
            "other images, so the metrics are optimistic."
        )
    if facts["lesions"] is None:
        warnings.append(
            "It is not known which of these images show the same lesion: the bootstrap resamples images, so the "
            "intervals may be too narrow, and whether these lesions are in the training set is not known either."
        )
    counts = np.bincount(predictions.labels, minlength=len(predictions.class_names))
    rare = [f"{name} {n}" for name, n in zip(predictions.class_names, counts, strict=True) if n < _MIN_IMAGES]
    if rare:
        warnings.append(
            f"Classes with fewer than {_MIN_IMAGES} images: {', '.join(rare)}. Their metrics are unreliable."
        )
    return warnings
