"""Weights in memory."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import compute_feature_size
from mobilenet_jax.weights.layout import Architecture, Shape
from mobilenet_jax.weights.metadata import Metadata

_MAX_LISTED = 4  # mismatches that an error lists


@dataclass(frozen=True)
class Weights:
    """Weights in memory.

    Attributes:
        format: the format they were read from, for display.
        identity: identifies these weights in stored calibrations and evaluations: `best checkpoint, step 799` or
            `latest checkpoint, step 799` for a workdir, `sha256:` and the hash of the content for any other file or
            folder, and empty for weights that were not read from a file. `with_image_size` appends another size. Stored
            values exist, so the wording is fixed.
        architecture: the MobileNet they belong to.
        tensors: float32 arrays by name (`params.conv1.kernel`), in Flax's layout and in the order of the layers.
        metadata: the facts that the tensors do not show.
    """

    format: str
    identity: str
    architecture: Architecture
    tensors: dict[str, np.ndarray]
    metadata: Metadata

    @property
    def variables(self) -> dict[str, Any]:
        """The tensors as the nested dict `{"params": ..., "batch_stats": ...}` that `MobileNet.apply` takes."""
        return unflatten_dict(self.tensors, sep=".")

    def check_outputs(self) -> None:
        """Checks that probabilities of the classes can be computed.

        Raises:
            WeightsError: the classifier has one output.
        """
        if self.architecture.head is not None and self.architecture.num_classes < 2:
            raise WeightsError(f"{self.metadata.source} has one output: probabilities of classes require two or more")

    def with_image_size(self, size: int) -> "Weights":
        """Returns the weights for square images of another size than that of training.

        A size a quarter larger often classifies better, because the random crops and zooms of training enlarge objects
        (Touvron et al. 2019, arXiv:1906.06423).

        Args:
            size: height and width in pixels.

        Raises:
            WeightsError: the head fits images of another size only, or the size is out of range.
        """
        architecture, recorded = self.architecture, self.metadata.image_size
        positions = math.prod(compute_feature_size(architecture.padding, (size, size)))
        if recorded == (size, size):
            return self
        if architecture.has_fixed_size and (recorded or positions != architecture.positions):
            raise WeightsError(f"the head {architecture.head!r} fits images of one size only")
        metadata = replace(self.metadata, image_size=(size, size))
        return replace(self, metadata=metadata, identity=f"{self.identity}, {size} x {size} pixels")


def check_tensors(tensors: Mapping[str, tuple[Shape, str]], expected: Mapping[str, Shape]) -> None:
    """Compares the shapes and types of tensors with the shapes of a MobileNet's.

    Args:
        tensors: shape and dtype by tensor name.
        expected: shape by tensor name.

    Raises:
        WeightsError: tensors are missing, unknown, or of another shape or type; the message lists the first ones.
    """
    _refuse_any("tensors missing", expected.keys() - tensors.keys())
    _refuse_any("tensors that MobileNet does not have", tensors.keys() - expected.keys())
    _refuse_any(
        "tensors not of type float32",
        (f"{name} is {dtype}" for name, (_, dtype) in tensors.items() if dtype != "float32"),
    )
    _refuse_any(
        "tensors of another shape",
        (f"{name} is {tensors[name][0]}, not {shape}" for name, shape in expected.items() if tensors[name][0] != shape),
    )


def _refuse_any(problem: str, names: Iterable[str]) -> None:
    listed = sorted(names)
    if listed:
        more = f" and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
        raise WeightsError(f"{problem}: {', '.join(name[:120] for name in listed[:_MAX_LISTED])}{more}")
