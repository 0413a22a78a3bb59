"""Weights in memory, and whether tensors are those of a MobileNet."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.layout import Architecture, Shape
from mobilenet_jax.weights.weights_file import Metadata

_SHOWN = 4  # so many mismatches are named


@dataclass(frozen=True)
class Weights:
    """Weights in memory.

    Attributes:
        format: the format they were read from, for display.
        identity: identifies these weights in stored calibrations and evaluations, such as `best checkpoint, step 799`.
        architecture: which MobileNet they are for.
        tensors: float32 arrays by name (`params.conv1.kernel`), in the order of the layers.
        metadata: what the tensors do not tell.
    """

    format: str
    identity: str
    architecture: Architecture
    tensors: dict[str, np.ndarray]
    metadata: Metadata

    @property
    def variables(self) -> dict[str, Any]:
        """The tensors as `MobileNet.apply` takes them."""
        return unflatten_dict(self.tensors, sep=".")


def check_metadata(found: Architecture, metadata: Metadata) -> None:
    """Compares the names of classes with the last layer.

    Raises:
        WeightsError: they are more or fewer.
    """
    if metadata.classes is not None and len(metadata.classes) != found.num_classes:
        raise WeightsError(f"{len(metadata.classes)} classes are named, and the last layer has {found.num_classes}")


def check_tensors(found: Mapping[str, tuple[Shape, str]], expected: Mapping[str, Shape]) -> None:
    """Compares tensors, each a shape and a type by its name, with the shapes that are expected.

    Raises:
        WeightsError: names the first that are missing, unknown, or of another shape or type.
    """

    def refuse(what: str, names: Iterable[str]) -> None:
        listed = sorted(names)
        if listed:
            more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
            raise WeightsError(f"{what}: {', '.join(name[:120] for name in listed[:_SHOWN])}{more}")

    refuse("tensors missing", expected.keys() - found.keys())
    refuse("tensors MobileNet does not have", found.keys() - expected.keys())
    refuse(
        "tensors not of type float32",
        (f"{name} is {dtype}" for name, (_, dtype) in found.items() if dtype != "float32"),
    )
    refuse(
        "tensors of another shape",
        (f"{name} is {found[name][0]}, not {shape}" for name, shape in expected.items() if found[name][0] != shape),
    )
