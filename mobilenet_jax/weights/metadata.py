"""Metadata of weights: the facts about a network that its tensors do not show."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from input_pipeline.examples import is_printable
from input_pipeline.preprocessing import STRETCH, ColorConstancy, InputScaling, Preprocessing, Resize
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE


@dataclass(frozen=True)
class Metadata:
    """The facts about a network that its tensors do not show.

    Attributes:
        image_size: height and width in pixels of the images it was trained on; None if unknown.
        input_scaling: the `(low, high)` range that pixel values 0 and 255 are mapped to: (-1, 1) for ImageNet weights,
            (0, 1) in the article. If the channels have ranges of their own, both are tuples of three.
        classes: the class names in the order of the logits; None if unknown.
        source: the name of the file that the weights were read from, or its location on the Hub with the commit.
        source_sha256: the SHA-256 of that file and of the JSON files beside it that were read, see `compute_sha256`.
        preprocessing: of the decoded images.

    Raises:
        WeightsError: a value is out of range.
    """

    image_size: tuple[int, int] | None = None
    input_scaling: InputScaling = (-1.0, 1.0)
    classes: tuple[str, ...] | None = None
    source: str = ""
    source_sha256: str = ""
    preprocessing: Preprocessing = STRETCH

    def __post_init__(self) -> None:
        size, scaling, classes = self.image_size, self.input_scaling, self.classes
        are_pixels = size is None or (
            isinstance(size, tuple | list) and len(size) == 2 and all(type(n) is int for n in size)
        )
        if not are_pixels or (size and not MIN_IMAGE_SIZE <= min(size) <= max(size) <= MAX_IMAGE_SIZE):
            raise WeightsError(
                f"image_size {size} is not a height and a width from {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels"
            )
        if not _is_range(scaling):
            raise WeightsError(f"input_scaling {scaling} is not a low number and a higher one, or three of each")
        if classes is not None and not all(isinstance(name, str) and is_printable(name) for name in classes):
            raise WeightsError("classes contains a name that is not printable text")
        choices = (get_args(Resize), get_args(ColorConstancy))
        for key, value, known in zip(Preprocessing._fields, self.preprocessing, choices, strict=True):
            if value not in known:
                raise WeightsError(f"{key} is {str(value)[:80]!r}, not one of {', '.join(known)}")

    def check_class_count(self, num_classes: int) -> None:
        """Compares the number of class names with the size of the last layer.

        Raises:
            WeightsError: they differ.
        """
        if self.classes is not None and len(self.classes) != num_classes:
            raise WeightsError(
                f"{len(self.classes)} class names are recorded, but the last layer has {num_classes} outputs"
            )

    def to_texts(self) -> dict[str, str]:
        """Returns the known values by name, lists as JSON. Every file format can store texts."""
        facts = {name: value for name, value in self.__dict__.items() if name != "preprocessing"}
        facts |= self.preprocessing.list_changes()
        known = {name: value for name, value in facts.items() if value not in (None, "")}
        return {
            # `float` converts NumPy's numbers.
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=float)
            for name, value in known.items()
        }

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> "Metadata":
        """Parses the result of `to_texts`. Other names are ignored.

        Raises:
            WeightsError: a value has the wrong type or is out of range.
        """
        values: dict[str, Any] = {}
        try:
            for name in ("image_size", "input_scaling", "classes"):
                if name in texts:
                    value = json.loads(texts[name])
                    if not isinstance(value, list):
                        raise ValueError
                    values[name] = parse_input_scaling(value) if name == "input_scaling" else tuple(value)
            values |= {name: texts[name] for name in ("source", "source_sha256") if name in texts}
            steps: Any = {name: texts[name] for name in Preprocessing._fields if name in texts}
            return cls(**values, preprocessing=Preprocessing(**steps))
        except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise WeightsError(f"the metadata {name} cannot be {str(texts[name])[:80]!r}") from error


def distinguish_names(names: Sequence[str]) -> tuple[str, ...]:
    """Appends the index to each name that occurs more than once: ImageNet has two classes named crane."""
    distinct = tuple(f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names))
    # `a`, `a` and `a (0)` become `a (0)` twice.
    return distinct if len(set(distinct)) == len(distinct) else distinguish_names(distinct)


def parse_input_scaling(values: list[Any]) -> InputScaling:
    """Parses the JSON form of an input scaling: two numbers, or two lists of three.

    Raises:
        TypeError, ValueError: it is anything else.
    """
    low, high = (tuple(map(float, value)) if isinstance(value, list) else float(value) for value in values)
    scaling: Any = (low, high)
    np.shape(scaling)  # raises ValueError for a number and a list
    return scaling


def format_input_scaling(scaling: InputScaling) -> str:
    """Formats a range, such as `[-1, 1]` or `[(-2.12, -2.04, -1.8), (2.25, 2.43, 2.64)]`."""
    texts = (
        f"({', '.join(f'{v:.4g}' for v in value)})" if isinstance(value, tuple) else f"{value:g}" for value in scaling
    )
    return f"[{', '.join(texts)}]"


def make_input_scaling(mean: Sequence[float], std: Sequence[float]) -> InputScaling:
    """Returns the range of pixels that are divided by 255 and normalized with the mean and standard deviation.

    Args:
        mean: one per channel, of pixel values from 0 to 1.
        std: the same.
    """
    low, high = (tuple((value - m) / s for m, s in zip(mean, std, strict=True)) for value in (0, 1))
    scaling: Any = (low, high) if len({*zip(low, high, strict=True)}) > 1 else (low[0], high[0])
    return scaling


def compute_mean_std(scaling: InputScaling) -> tuple[list[float], list[float]]:
    """Computes mean and standard deviation per channel: the inverse of `make_input_scaling`."""
    low, high = (np.broadcast_to(np.asarray(value, np.float64), 3) for value in scaling)
    mean, std = -low / (high - low), 1 / (high - low)
    return [_round(v) for v in mean], [_round(v) for v in std]


def _round(value: float) -> float:
    """Rounds to 15 significant digits; zero has no sign."""
    return float(f"{value:.15g}") + 0.0


def _is_range(scaling: Any) -> bool:
    if len(scaling) != 2 or np.shape(scaling) not in ((2,), (2, 3)):
        return False
    low, high = map(np.asarray, scaling)
    return bool(np.isfinite([low, high]).all() and (low < high).all())


def check_texts(value: object) -> dict[str, str]:
    """Returns parsed JSON, after validating that it is an object whose values are all strings.

    Raises:
        WeightsError: it is anything else.
    """
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise WeightsError("its metadata is not a JSON object whose values are all strings")
    return value
