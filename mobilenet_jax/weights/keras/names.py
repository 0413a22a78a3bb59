"""What Keras calls the tensors of a MobileNet, and what each is called here.

Keras 1 and 2 name a dataset by layer and tensor (`conv1/conv1/kernel:0`). Keras 3 numbers both (`layers/conv2d/vars/0`,
`layers/conv2d_1/vars/0`): the layers of a class in the order of the model, and the tensors of a layer in the order they
are made in. The layers of a head, which have whatever names, are told by their order.
Sources: Keras's `legacy/saving/legacy_h5_format.py` and `saving/saving_lib.py`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.layout import HEAD_LAYERS

_Layer = TypeVar("_Layer")
_HEAD_NORMS = ("dense_1_bn", "dense_2_bn")
# The layers that have tensors, by Keras 3's name of their class. Dense layers are a head's.
_LAYERS = {
    "conv2d": ("conv1", *(f"conv_pw_{i}" for i in range(1, 14)), "conv_preds"),
    "depthwise_conv2d": tuple(f"conv_dw_{i}" for i in range(1, 14)),
    "batch_normalization": (
        "conv1_bn",
        *(f"conv_{kind}_{i}_bn" for i in range(1, 14) for kind in ("dw", "pw")),
        *_HEAD_NORMS,
    ),
}
_KNOWN = {layer for layers in _LAYERS.values() for layer in layers}
_TENSORS = {
    "kernel": "kernel",
    "depthwise_kernel": "kernel",
    "bias": "bias",
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "var",
}


def from_keras_2(paths: Iterable[str]) -> dict[str, str]:
    """The names here of Keras 1's and 2's datasets, by their paths; those that have none here are left out.

    The layers of a head are told by the order of their numbers, since Keras numbers them on through a session.
    """
    found = {}
    for path in paths:
        *groups, tensor = path.removesuffix(":0").split("/")
        if groups and tensor in _TENSORS:
            found[path] = (next((group for group in groups if group in _KNOWN), groups[-1]), _TENSORS[tensor])
    norms = {layer for layer, tensor in found.values() if tensor in ("scale", "mean", "var")} - _KNOWN
    dense = {layer for layer, _ in found.values()} - _KNOWN - norms
    if len({re.sub(r"_?\d+", "", layer) for layer in norms}) > 1:
        norms = set()  # swapped, these would fit as well
    head = _head(sorted(dense, key=_in_numbers_order), sorted(norms, key=_in_numbers_order))
    return {path: _name(head.get(layer, layer), tensor) for path, (layer, tensor) in found.items()}


def from_keras_3(layer_names: Mapping[str, str | None]) -> dict[str, str]:
    """The same for Keras 3's datasets.

    Args:
        layer_names: what the layer of each dataset was called in its model, by the dataset's path; None if not told.

    Raises:
        WeightsError: a layer of MobileNet stands where another one belongs.
    """
    pattern = re.compile(rf"((?:.*/)?)({'|'.join(_LAYERS)}|dense)(?:_(\d{{1,4}}))?/vars/(\d)")
    matches = {path: match for path in layer_names if (match := pattern.fullmatch(path))}
    found = {path: (_Numbered(m[1], m[2], int(m[3] or 0)), int(m[4])) for path, m in matches.items()}
    layers = _layers_of_keras_3({layer for layer, _ in found.values()})
    names = {}
    for path, (numbered, tensor) in found.items():
        layer = layers.get(numbered)
        tensors = ("scale", "bias", "mean", "var") if numbered.kind == "batch_normalization" else ("kernel", "bias")
        if layer is None or tensor >= len(tensors):
            continue
        if layer_names[path] in _KNOWN - {layer}:
            raise WeightsError(f"swapped layers: {path} stands for {layer} but is of layer {layer_names[path]}")
        names[path] = _name(layer, tensors[tensor])
    return names


class _Numbered(NamedTuple):
    """A layer of Keras 3: the model it is in, its class, and its number among those of this class there."""

    model: str
    kind: str
    number: int


def _layers_of_keras_3(found: set[_Numbered]) -> dict[_Numbered, str]:
    """The names here of Keras 3's layers. A head's can stand beside the backbone's, or around it with own numbers."""
    backbones = {layer.model for layer in found if layer.kind == "depthwise_conv2d"}
    names, head = {}, []
    for layer in sorted(found):
        members = _LAYERS.get(layer.kind, ())
        in_backbone = layer.kind != "batch_normalization" or layer.model in backbones
        if in_backbone and layer.number < len(members) and members[layer.number] not in _HEAD_NORMS:
            names[layer] = members[layer.number]
        elif layer.kind in ("dense", "batch_normalization"):
            head.append(layer)
    if len({layer.model for layer in head}) == 1:  # in two, their numbers are no order
        dense = [layer for layer in head if layer.kind == "dense"]
        names |= _head(dense, [layer for layer in head if layer.kind != "dense"])
    return names


def to_keras_3(names: Iterable[str]) -> dict[str, str]:
    """What a `.weights.h5` of Keras 3 calls each tensor, such as `layers/depthwise_conv2d_4/vars/0`."""
    names = list(names)
    layers = {name.split(".")[1] for name in names}
    dense = tuple(layer for layer in HEAD_LAYERS["article"] if layer in layers)
    groups = {
        layer: f"layers/{kind}_{i}" if i else f"layers/{kind}"
        for kind, members in {**_LAYERS, "dense": dense}.items()
        for i, layer in enumerate(members)
    }
    number = {"kernel": 0, "scale": 0, "bias": 1, "mean": 2, "var": 3}
    return {name: f"{groups[name.split('.')[1]]}/vars/{number[name.split('.')[2]]}" for name in names}


def _in_numbers_order(name: str) -> list[str | int]:
    """Sorts `dense_9` before `dense_10`."""
    parts = re.split("([0-9]{1,9})", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _head(dense: list[_Layer], norms: list[_Layer]) -> dict[_Layer, str]:
    """The names here of a head's dense layers and batch normalizations, each given in their order."""
    known = {3: HEAD_LAYERS["article"], 1: HEAD_LAYERS["small"]}.get(len(dense), ())
    names = dict(zip(dense, known, strict=False))
    if (len(dense), len(norms)) == (3, 2):
        names |= dict(zip(norms, _HEAD_NORMS, strict=True))
    return names


def _name(layer: str, tensor: str) -> str:
    return f"{'batch_stats' if tensor in ('mean', 'var') else 'params'}.{layer}.{tensor}"
