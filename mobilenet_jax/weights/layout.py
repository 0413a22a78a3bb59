"""The tensors of a MobileNet: names, shapes, and the order of their axes here and in Keras.

A tensor is named by its path in the variables, such as `params.conv_dw_1.kernel` or `batch_stats.conv1_bn.mean`.
Kernels are stored as height, width, input channels, output channels. There is one exception: Keras stores a depthwise
kernel as `[3, 3, channels, 1]`, and Flax, for a convolution with one group per channel, as `[3, 3, 1, channels]`.
"""

import itertools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import ALPHAS, BLOCKS, Head, MobileNet

Shape = tuple[int, ...]

# The layers of each head that have a kernel. In "article_bn" batch normalization follows all but the last.
HEAD_LAYERS: dict[Head | None, tuple[str, ...]] = {
    "article": ("dense_1", "dense_2", "predictions"),
    "article_bn": ("dense_1", "dense_2", "predictions"),
    "small": ("predictions",),
    "imagenet": ("conv_preds",),
    None: (),
}
# The layers that identify a head. The first head with one of its layers in a file is that of the file.
_IDENTIFYING_LAYERS: dict[Head, set[str]] = {
    "article_bn": {"dense_1_bn", "dense_2_bn"},
    "article": {"dense_1", "dense_2"},
    "imagenet": {"conv_preds"},
    "small": {"predictions"},
}
_DENSE_UNITS = 1024  # of each hidden layer of the article's heads
_DEPTHWISE_KERNEL = re.compile(r"params\.conv_dw_\d+\.kernel")
_DEPTHWISE_AXES = (0, 1, 3, 2)


class Architecture(NamedTuple):
    """The properties of a MobileNet that determine the shapes of its tensors.

    Attributes:
        alpha: the width multiplier.
        head: see `MobileNet`.
        num_classes: the size of the last layer; 0 without a head.
        positions: height times width of the last feature map for heads of a fixed size; 1 for all others.
    """

    alpha: float
    head: Head | None
    num_classes: int
    positions: int

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Shape], *, head: bool = True) -> "Architecture":
        """Infers the MobileNet from a few of its tensors. The others may still be missing or of a wrong shape.

        Args:
            shapes: shapes in Flax's layout by tensor name.
            head: whether to look for a classifier.

        Raises:
            WeightsError: the first kernel is not that of a MobileNet v1, or the last layer is missing.
        """
        alpha = _infer_alpha(shapes.get("params.conv1.kernel"))
        layers = {name.split(".")[1] for name in shapes if name.count(".") == 2}
        name = next((name for name, identifying in _IDENTIFYING_LAYERS.items() if layers & identifying), None)
        if name is None or not head:
            return cls(alpha, None, 0, 1)
        first, last = (shapes.get(f"params.{HEAD_LAYERS[name][i]}.kernel") for i in (0, -1))
        if not last or last[-1] < 1:
            raise WeightsError(f"the last layer of the head, {HEAD_LAYERS[name][-1]}, is missing or has no classes")
        architecture = cls(alpha, name, last[-1], 1)
        if architecture.has_fixed_size and first:
            channels = int(BLOCKS[-1][0] * alpha)
            architecture = architecture._replace(positions=max(1, first[0] // channels))
        return architecture

    @property
    def has_fixed_size(self) -> bool:
        """Whether the model takes images of one size only, the size that has `positions` positions."""
        return self.head in ("article", "article_bn")

    def build_model(self) -> MobileNet:
        """Builds the model that tensors of this architecture belong to."""
        return MobileNet(alpha=self.alpha, head=self.head, num_classes=self.num_classes or MobileNet.num_classes)

    def compute_shapes(self) -> dict[str, Shape]:
        """Returns the shape of every tensor by its name, in Flax's layout and in the order of the layers."""
        channels = int(32 * self.alpha)
        shapes: dict[str, Shape] = {"params.conv1.kernel": (3, 3, 3, channels)}
        shapes |= _compute_batch_norm_shapes("conv1", channels)
        for block, (features, _) in enumerate(BLOCKS, start=1):
            shapes[f"params.conv_dw_{block}.kernel"] = (3, 3, 1, channels)
            shapes |= _compute_batch_norm_shapes(f"conv_dw_{block}", channels)
            features = int(features * self.alpha)
            shapes[f"params.conv_pw_{block}.kernel"] = (1, 1, channels, features)
            shapes |= _compute_batch_norm_shapes(f"conv_pw_{block}", features)
            channels = features
        return shapes | self._compute_head_shapes(channels)

    def _compute_head_shapes(self, channels: int) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        sizes = [channels, self.num_classes]
        if self.has_fixed_size:
            sizes = [self.positions * channels, _DENSE_UNITS, _DENSE_UNITS, self.num_classes]
        for layer, shape in zip(HEAD_LAYERS[self.head], itertools.pairwise(sizes), strict=False):
            shapes[f"params.{layer}.kernel"] = (1, 1, *shape) if layer == "conv_preds" else shape
            shapes[f"params.{layer}.bias"] = shape[1:]
            if self.head == "article_bn" and layer != "predictions":
                shapes |= _compute_batch_norm_shapes(layer, _DENSE_UNITS)
        return shapes


def _infer_alpha(stem: Shape | None) -> float:
    alphas = {(3, 3, 3, int(32 * alpha)): alpha for alpha in ALPHAS}
    if stem is None:
        raise WeightsError("not a MobileNet v1: the tensor conv1/kernel is missing")
    if stem not in alphas:
        order = " (channels first)" if stem[1:] == (3, 3, 3) else ""
        raise WeightsError(f"not a MobileNet v1: conv1/kernel has the shape {stem}{order}, not (3, 3, 3, 32 alpha)")
    return alphas[stem]


def _compute_batch_norm_shapes(layer: str, channels: int) -> dict[str, Shape]:
    names = ("params.{}.scale", "params.{}.bias", "batch_stats.{}.mean", "batch_stats.{}.var")
    return {name.format(f"{layer}_bn"): (channels,) for name in names}


def get_transposed_axes(name: str) -> tuple[int, ...] | None:
    """Returns the order of axes that converts a tensor from Keras's layout to Flax's, or None if both are the same.

    The same order converts it back.
    """
    return _DEPTHWISE_AXES if _DEPTHWISE_KERNEL.fullmatch(name) else None


def transpose(name: str, value: np.ndarray) -> np.ndarray:
    """Converts a tensor from Keras's layout to Flax's, or back."""
    return value.transpose(get_transposed_axes(name) or range(value.ndim))


def transpose_shape(name: str, shape: Shape) -> Shape:
    """Converts a shape from Keras's layout to Flax's, or back. A wrong number of dimensions is kept as it is."""
    axes = get_transposed_axes(name)
    return tuple(shape[i] for i in axes) if axes and len(axes) == len(shape) else shape


def get_byte_count(shape: Shape) -> int:
    """Returns the bytes of a float32 tensor."""
    return 4 * math.prod(shape)
