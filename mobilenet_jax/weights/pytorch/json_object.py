"""A JSON file beside weights, whose values are validated."""

import json
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from input_pipeline.examples import is_printable
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE
from mobilenet_jax.weights.damage import report_damage

LARGEST = 1e6  # number with which an input range can be computed
_MAX_BYTES = 8 << 20
_MAX_SHOWN = 80  # characters of a value that a message shows


class JsonObject(NamedTuple):
    """An object in a JSON file. Its methods validate values; errors name the file, the key, the value and valid ones.

    Attributes:
        file: the name of the file, for errors.
        values: the values by key.
    """

    file: str
    values: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "JsonObject":
        """Reads a file; one that does not exist is an empty object.

        Raises:
            WeightsError: it is too large, or holds no JSON object.
        """
        if not path.is_file():
            return cls(path.name, {})
        if path.stat().st_size > _MAX_BYTES:
            raise WeightsError(f"{path.name} beside it has more than {_MAX_BYTES:,} bytes")
        with report_damage(f"{path.name} beside it is damaged"):
            content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise WeightsError(f"{path.name} beside it is not a JSON object")
        return cls(path.name, content)

    def refuse(self, key: str, valid: str) -> NoReturn:
        """Raises `WeightsError` for the value of a key."""
        raise WeightsError(f"{key} in {self.file} beside it is {_format_json(self.values[key])}, not {valid}")

    def read_number(self, key: str, default: float, low: float, high: float) -> float:
        """Returns a number between two others."""
        value = self.values.get(key, default)
        if not _is_number(value, low, high):
            self.refuse(key, f"a number between {low:g} and {high:g}")
        return float(value)

    def read_channels(self, key: str, default: list[float], low: float) -> list[float]:
        """Returns a number for each channel. Both libraries also take a single one for all channels."""
        value = self.values.get(key, default)
        numbers = value if isinstance(value, list) else [value]
        if len(numbers) not in (1, 3) or not all(_is_number(number, low, LARGEST) for number in numbers):
            self.refuse(key, f"a number between {low:g} and {LARGEST:g}, or one for each of three channels")
        return numbers * (3 // len(numbers))

    def read_object(self, key: str) -> "JsonObject":
        """Returns an object; null and a missing one are empty."""
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            self.refuse(key, "an object")
        return JsonObject(self.file, value)

    def read_size(self, key: str) -> tuple[int, int] | None:
        """Returns a height and a width, from either or one number for both; None if the object has neither."""
        value = self.values.get(key)
        sides = value
        if isinstance(value, dict):
            sides = [value["height"], value.get("width")] if "height" in value else None
        elif isinstance(value, int):
            sides = [value, value]
        return None if sides is None else self.check_sides(key, sides)

    def check_sides(self, key: str, sides: Any) -> tuple[int, int]:
        """Returns a height and a width after validating them."""
        is_pair = isinstance(sides, list) and len(sides) == 2 and all(type(side) is int for side in sides)
        if not is_pair or not MIN_IMAGE_SIZE <= min(sides) <= max(sides) <= MAX_IMAGE_SIZE:
            self.refuse(key, f"a height and a width from {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels")
        return sides[0], sides[1]

    def check_classes(self, key: str, names: list[Any]) -> tuple[str, ...]:
        """Returns class names after validating them."""
        if not all(isinstance(name, str) and is_printable(name) for name in names):
            self.refuse(key, "printable names")
        return tuple(names)


def _format_json(value: Any) -> str:
    """Returns the start of a value as JSON."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "too deeply nested"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low < value < high
