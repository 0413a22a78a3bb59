"""The tensors of a MobileNet: names, shapes, and the order of their axes here, in Keras and in PyTorch.

A tensor is named by its path in the variables, such as `params.conv_dw_1.kernel` or `batch_stats.conv1_bn.mean`.
Kernels are stored as height, width, input channels, output channels. There is one exception: Keras stores a depthwise
kernel as `[3, 3, channels, 1]`, and Flax, for a convolution with one group per channel, as `[3, 3, 1, channels]`.
PyTorch stores kernels as output channels, input channels, height, width.
"""

import contextlib
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import BLOCKS, Head, MobileNet, StridedPadding

Shape = tuple[int, ...]
Layout = Literal["flax", "keras", "pytorch"]
KERAS_SIZE = (224, 224)  # of images, for weights that do not record theirs
VARIANT = ("batch_norm_epsilon", "padding")  # the attributes of an architecture that shapes do not show

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
# The orders of axes that convert a kernel of each layout to Flax's.
_KERAS_AXES, _PYTORCH_CONV_AXES, _PYTORCH_DENSE_AXES = (0, 1, 3, 2), (2, 3, 1, 0), (1, 0)


class Architecture(NamedTuple):
    """The properties of a MobileNet that determine its function, given its tensors.

    Attributes:
        alpha: the width multiplier.
        head: see `MobileNet`.
        num_classes: the size of the last layer; 0 without a head.
        positions: height times width of the last feature map for heads of a fixed size; 1 for all others.
        conv_head: see `MobileNet`.
        batch_norm_epsilon: see `MobileNet`. Shapes do not show it.
        padding: see `MobileNet`. Shapes do not show it.
    """

    alpha: float
    head: Head | None
    num_classes: int
    positions: int
    conv_head: bool = False
    batch_norm_epsilon: float = MobileNet.batch_norm_epsilon
    padding: StridedPadding = MobileNet.padding

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
        conv_head = "params.conv_head.kernel" in shapes
        if name is None or not head:
            return cls(alpha, None, 0, 1, conv_head)
        first, last = (shapes.get(f"params.{HEAD_LAYERS[name][i]}.kernel") for i in (0, -1))
        if not last or last[-1] < 1:
            raise WeightsError(f"the last layer of the head, {HEAD_LAYERS[name][-1]}, is missing or has no classes")
        architecture = cls(alpha, name, last[-1], 1, conv_head)
        if architecture.has_fixed_size and first:
            channels = int(BLOCKS[-1][0] * alpha)
            architecture = architecture._replace(positions=max(1, first[0] // channels))
        return architecture

    @property
    def has_fixed_size(self) -> bool:
        """Whether the model takes images of one size only, the size that has `positions` positions."""
        return self.head in ("article", "article_bn")

    @property
    def variant(self) -> dict[str, Any]:
        """The attributes that shapes do not show, if they differ from Keras's."""
        return {name: getattr(self, name) for name in VARIANT if getattr(self, name) != getattr(MobileNet, name)}

    def build_model(self) -> MobileNet:
        """Builds the model that tensors of this architecture belong to."""
        return MobileNet(
            alpha=self.alpha,
            head=self.head,
            num_classes=self.num_classes or MobileNet.num_classes,
            conv_head=self.conv_head,
            batch_norm_epsilon=self.batch_norm_epsilon,
            padding=self.padding,
        )

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
        if self.conv_head:
            shapes["params.conv_head.kernel"] = (1, 1, channels, channels)
            shapes |= _compute_batch_norm_shapes("conv_head", channels)
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


def parse_variant(texts: Mapping[str, str]) -> dict[str, Any]:
    """Parses the attributes in `VARIANT` from metadata. Those that are left out are as in Keras.

    Raises:
        WeightsError: a value is not one that `MobileNet` takes.
    """
    variant: dict[str, Any] = {name: texts[name] for name in VARIANT if name in texts}
    if "batch_norm_epsilon" in variant:
        with contextlib.suppress(ValueError):
            variant["batch_norm_epsilon"] = float(variant["batch_norm_epsilon"])
    return check_variant(variant)


def check_variant(variant: dict[str, Any]) -> dict[str, Any]:
    """Returns attributes in `VARIANT` after validating them.

    Raises:
        WeightsError: a value is not one that `MobileNet` takes.
    """
    epsilon = variant.get("batch_norm_epsilon", MobileNet.batch_norm_epsilon)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise WeightsError(f"its epsilon of batch normalization is {str(epsilon)[:80]!r}, not a number from 0 to 1")
    padding = variant.get("padding", MobileNet.padding)
    if padding not in get_args(StridedPadding):
        raise WeightsError(f"its padding is {str(padding)[:80]!r}, not one of {get_args(StridedPadding)}")
    return variant


def express_padding(
    target: str, padding: StridedPadding, size: tuple[int, int], known: tuple[StridedPadding, ...]
) -> StridedPadding:
    """Returns the padding of a target that equals `padding` for images of a size.

    Args:
        target: its name, for errors.
        padding: the padding of the model.
        size: height and width of the images.
        known: the paddings of the target.

    Raises:
        WeightsError: none does.
    """
    if padding in known:
        return padding
    # At sizes that are 0 or -1 modulo 32, the inputs of all blocks of stride 2 are even: SAME is (0, 1) there.
    equal: StridedPadding = "same" if padding == "keras" else "keras"
    if padding != "symmetric" and equal in known and all(n % 32 in (0, 31) for n in size):
        return equal
    raise WeightsError(
        f"{target} cannot express the padding {padding!r} for images of {size[0]} x {size[1]}"
        + ("" if padding == "symmetric" else ": sizes whose sides are 0 or 31 modulo 32 can be written")
    )


def _infer_alpha(stem: Shape | None) -> float:
    if stem is None:
        raise WeightsError("not a MobileNet v1: the tensor conv1/kernel is missing")
    if stem[:-1] != (3, 3, 3) or not stem[-1]:
        order = " (channels first)" if stem[1:] == (3, 3, 3) else ""
        raise WeightsError(f"not a MobileNet v1: conv1/kernel has the shape {stem}{order}, not (3, 3, 3, 32 alpha)")
    return stem[-1] / 32


def _compute_batch_norm_shapes(layer: str, channels: int) -> dict[str, Shape]:
    names = ("params.{}.scale", "params.{}.bias", "batch_stats.{}.mean", "batch_stats.{}.var")
    return {name.format(f"{layer}_bn"): (channels,) for name in names}


def get_transposed_axes(name: str, layout: Layout) -> tuple[int, ...] | None:
    """Returns the order of axes that converts a tensor from a layout to Flax's, or None if both are the same."""
    if layout == "keras":
        return _KERAS_AXES if _DEPTHWISE_KERNEL.fullmatch(name) else None
    if layout == "pytorch" and name.endswith(".kernel"):
        return _PYTORCH_CONV_AXES if name.startswith("params.conv") else _PYTORCH_DENSE_AXES
    return None


def to_flax(name: str, value: np.ndarray, layout: Layout) -> np.ndarray:
    """Converts a tensor from a layout to Flax's."""
    return value.transpose(get_transposed_axes(name, layout) or range(value.ndim))


def from_flax(name: str, value: np.ndarray, layout: Layout) -> np.ndarray:
    """Converts a tensor from Flax's layout to another: the inverse of `to_flax`."""
    return value.transpose(np.argsort(get_transposed_axes(name, layout) or range(value.ndim)))


def to_flax_shape(name: str, shape: Shape, layout: Layout) -> Shape:
    """Converts a shape from a layout to Flax's. A wrong number of dimensions is kept as it is."""
    axes = get_transposed_axes(name, layout)
    return tuple(shape[i] for i in axes) if axes and len(axes) == len(shape) else shape


def from_flax_shape(name: str, shape: Shape, layout: Layout) -> Shape:
    """Converts a shape from Flax's layout to another: the inverse of `to_flax_shape`."""
    axes = get_transposed_axes(name, layout)
    return tuple(shape[axes.index(i)] for i in range(len(axes))) if axes and len(axes) == len(shape) else shape


def get_byte_count(shape: Shape) -> int:
    """Returns the bytes of a float32 tensor."""
    return 4 * math.prod(shape)
