"""The tensors of a MobileNet: their names and shapes, here and in Keras. What every reader and writer agrees on.

A tensor is named by its way through the variables, such as `params.conv_dw_1.kernel` or `batch_stats.conv1_bn.mean`.
Kernels are stored as height, width, input, output channels; Keras stores a depthwise kernel as `[3, 3, channels, 1]`
and Flax, for a convolution with as many groups as channels, as `[3, 3, 1, channels]`.
"""

import itertools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import ALPHAS, BLOCKS, Head, MobileNet

Shape = tuple[int, ...]


class Architecture(NamedTuple):
    """What of a MobileNet decides the shapes of its tensors.

    Attributes:
        alpha: the width multiplier.
        head: see `MobileNet`.
        num_classes: the size of the last layer; 0 without a head.
        positions: height times width of the last feature map, which the article's heads are made for; otherwise 1.
    """

    alpha: float
    head: Head | None
    num_classes: int
    positions: int

    @property
    def has_fixed_size(self) -> bool:
        """Whether it takes images of one size only, that of `positions`."""
        return self.head in ("article", "article_bn")

    def build_model(self) -> MobileNet:
        """The model these tensors are for."""
        return MobileNet(alpha=self.alpha, head=self.head, num_classes=self.num_classes or MobileNet.num_classes)

    def shapes(self) -> dict[str, Shape]:
        """The shape of every tensor by its name, in the order of the layers."""
        channels = int(32 * self.alpha)
        shapes: dict[str, Shape] = {"params.conv1.kernel": (3, 3, 3, channels)}
        shapes |= _batch_norm("conv1", channels)
        for block, (out, _) in enumerate(BLOCKS, start=1):
            shapes[f"params.conv_dw_{block}.kernel"] = (3, 3, 1, channels)
            shapes |= _batch_norm(f"conv_dw_{block}", channels)
            out = int(out * self.alpha)
            shapes[f"params.conv_pw_{block}.kernel"] = (1, 1, channels, out)
            shapes |= _batch_norm(f"conv_pw_{block}", out)
            channels = out
        sizes = [channels, self.num_classes]
        if self.has_fixed_size:
            sizes = [self.positions * channels, 1024, 1024, self.num_classes]
        for layer, shape in zip(HEAD_LAYERS[self.head], itertools.pairwise(sizes), strict=False):
            shapes[f"params.{layer}.kernel"] = (1, 1, *shape) if layer == "conv_preds" else shape
            shapes[f"params.{layer}.bias"] = shape[1:]
            if self.head == "article_bn" and layer != "predictions":
                shapes |= _batch_norm(layer, 1024)
        return shapes


# The layers of each head that have a kernel; in "article_bn" all but the last are followed by batch normalization.
HEAD_LAYERS: dict[Head | None, tuple[str, ...]] = {
    "article": ("dense_1", "dense_2", "predictions"),
    "article_bn": ("dense_1", "dense_2", "predictions"),
    "small": ("predictions",),
    "imagenet": ("conv_preds",),
    None: (),
}


def _batch_norm(layer: str, channels: int) -> dict[str, Shape]:
    names = ("params.{}.scale", "params.{}.bias", "batch_stats.{}.mean", "batch_stats.{}.var")
    return {name.format(f"{layer}_bn"): (channels,) for name in names}


def architecture(shapes: Mapping[str, Shape], *, head: bool = True) -> Architecture:
    """The MobileNet that tensors of these names and shapes belong to, as far as they tell; they may still be wrong.

    Args:
        shapes: by the tensors' names.
        head: whether to look for a classifier.

    Raises:
        WeightsError: the first kernel is not that of a MobileNet v1.
    """
    stem = shapes.get("params.conv1.kernel")
    alphas = {(3, 3, 3, int(32 * alpha)): alpha for alpha in ALPHAS}
    if stem is None:
        raise WeightsError("no MobileNet v1: it has no tensor conv1/kernel")
    if stem not in alphas:
        order = " (channels first)" if stem[1:] == (3, 3, 3) else ""
        raise WeightsError(f"no MobileNet v1: its conv1/kernel is {stem}{order}, not (3, 3, 3, 32 alpha)")
    layers = {name.split(".")[1] for name in shapes if name.count(".") == 2}
    unique: dict[Head, set[str]] = {  # the first of these that has a layer in it
        "article_bn": {"dense_1_bn", "dense_2_bn"},
        "article": {"dense_1", "dense_2"},
        "imagenet": {"conv_preds"},
        "small": {"predictions"},
    }
    kind = next((kind for kind, names in unique.items() if layers & names), None)
    if kind is None or not head:
        return Architecture(alphas[stem], None, 0, 1)
    first, last = (shapes.get(f"params.{HEAD_LAYERS[kind][i]}.kernel") for i in (0, -1))
    if not last or last[-1] < 1:
        raise WeightsError(f"the layer {HEAD_LAYERS[kind][-1]} of its head is missing, or has no classes")
    found = Architecture(alphas[stem], kind, last[-1], 1)
    if found.has_fixed_size and first:
        found = found._replace(positions=max(1, first[0] // int(1024 * found.alpha)))
    return found


def axes(name: str) -> tuple[int, ...] | None:
    """How Keras's tensor is transposed to Flax's, and Flax's to Keras's; None if they are the same."""
    return (0, 1, 3, 2) if re.fullmatch(r"params\.conv_dw_\d+\.kernel", name) else None


def transposed(name: str, shape: Shape) -> Shape:
    """The shape after that."""
    return tuple(shape[i] for i in axes(name) or range(len(shape)))


def size(shape: Shape) -> int:
    """The bytes of a float32 tensor."""
    return 4 * math.prod(shape)
