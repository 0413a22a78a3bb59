"""What every reader gives: the tensors of a file, not read yet, and what the file says of itself."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE
from mobilenet_jax.weights.layout import Shape

Range = tuple[float, float]


class Entry(NamedTuple):
    """A tensor in a file: its name, shape and type there, and how to read it."""

    name: str
    shape: Shape
    dtype: str
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Metadata:
    """What a network's tensors do not tell.

    Attributes:
        image_size: height and width in pixels of the images it was trained on; None if not known.
        input_scaling: what pixel values 0 and 255 are mapped to: (-1, 1) for ImageNet weights, (0, 1) in the article.
        classes: the classes' names in the order of the logits; None if not known.
        source: the name of the file these weights were read from.
        source_sha256: its SHA-256; a folder's is that of its files' names and contents in order.
    """

    image_size: tuple[int, int] | None = None
    input_scaling: Range = (-1.0, 1.0)
    classes: tuple[str, ...] | None = None
    source: str = ""
    source_sha256: str = ""

    def __post_init__(self) -> None:
        size, scaling, classes = self.image_size, self.input_scaling, self.classes
        sides = size is None or (len(size) == 2 and all(type(n) is int for n in size))
        if not sides or (size and not MIN_IMAGE_SIZE <= min(size) <= max(size) <= MAX_IMAGE_SIZE):
            raise WeightsError(f"image_size is {size}, not a height and a width in pixels up to {MAX_IMAGE_SIZE}")
        if len(scaling) != 2 or not -math.inf < scaling[0] < scaling[1] < math.inf:
            raise WeightsError(f"input_scaling is {scaling}, not a low and a higher number")
        if classes is not None and not all(isinstance(name, str) and name.isprintable() for name in classes):
            raise WeightsError("classes are not names")

    def to_json(self) -> dict[str, str]:
        """As text by name, what is not known left out."""
        known = {name: value for name, value in self.__dict__.items() if value not in (None, "")}
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in known.items()
        }

    @classmethod
    def from_json(cls, texts: Mapping[str, str]) -> "Metadata":
        """Reads it back. Names it does not know are passed over.

        Raises:
            WeightsError: a value is not of its type or out of range.
        """
        found: dict[str, Any] = {}
        try:
            for name in ("image_size", "input_scaling", "classes"):
                if name in texts:
                    value = json.loads(texts[name])
                    if not isinstance(value, list):
                        raise ValueError
                    found[name] = tuple(map(float, value) if name == "input_scaling" else value)
            found |= {name: texts[name] for name in ("source", "source_sha256") if name in texts}
            return cls(**found)
        except WeightsError:
            raise
        except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise WeightsError(f"its metadata {name} cannot be {str(texts[name])[:80]!r}") from error


@dataclass(frozen=True)
class Source:
    """A file of weights, opened.

    Attributes:
        format: the format of the file, for display.
        identity: identifies the weights in stored calibrations and evaluations.
        path: the file or folder that the tensors are in.
        entries: the tensors by the name they have here; one that has none here by the name it has in the file.
        keras_layout: whether depthwise kernels are `[3, 3, channels, 1]`.
        stated: what the file says of itself, as text by name.
        metadata: that, read; what the file does not say is as Keras's ImageNet weights have it.
    """

    format: str
    identity: str
    path: Path
    entries: dict[str, Entry]
    keras_layout: bool
    stated: Mapping[str, str]
    metadata: Metadata


def content_size(path: Path) -> int:
    """The bytes of a file, or of the files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def sha256(path: Path) -> str:
    """Of a file's content; of a folder's files' names and contents, sorted by name."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if file != path:
            digest.update(f"{file.relative_to(path).as_posix()}\n{file.stat().st_size}\n".encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
