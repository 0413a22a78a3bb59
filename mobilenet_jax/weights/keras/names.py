"""Maps Keras's names for the tensors of a MobileNet to the names of `layout.py`, and back.

Keras 1 and 2 name a dataset by layer and tensor (`conv1/conv1/kernel:0`). Keras 3 numbers both (`layers/conv2d/vars/0`,
`layers/conv2d_1/vars/0`): the layers of a class in the order of the model, and the tensors of a layer in the order of
their creation. The layers of a head can have any name and are identified by their order.
Sources: Keras's `legacy/saving/legacy_h5_format.py` and `saving/saving_lib.py`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.layout import HEAD_LAYERS

_Layer = TypeVar("_Layer")
_HEAD_NORMS = ("dense_1_bn", "dense_2_bn")
# The layers that have tensors, by Keras 3's name of their class. Dense layers are left out: they belong to a head.
_LAYERS = {
    "conv2d": ("conv1", *(f"conv_pw_{i}" for i in range(1, 14)), "conv_preds"),
    "depthwise_conv2d": tuple(f"conv_dw_{i}" for i in range(1, 14)),
    "batch_normalization": (
        "conv1_bn",
        *(f"conv_{conv}_{i}_bn" for i in range(1, 14) for conv in ("dw", "pw")),
        *_HEAD_NORMS,
    ),
}
_KNOWN_LAYERS = {layer for layers in _LAYERS.values() for layer in layers}
_TENSORS = {  # the names of a layer's tensors, by Keras's name
    "kernel": "kernel",
    "depthwise_kernel": "kernel",
    "bias": "bias",
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "var",
}
_STATISTICS = ("mean", "var")
# In the order in which Keras creates them.
_KERNEL_TENSORS, _NORM_TENSORS = ("kernel", "bias"), ("scale", "bias", "mean", "var")
_KERAS_3_PATH = re.compile(rf"((?:.*/)?)({'|'.join(_LAYERS)}|dense)(?:_(\d{{1,4}}))?/vars/(\d)")


def map_from_keras_2(positions: Mapping[str, list[int] | None]) -> dict[str, str]:
    """Maps the datasets of Keras 1 and 2 to tensor names; datasets that have none are left out.

    Args:
        positions: by the path of each dataset, the position of its layer in the model and its own in the layer, or None
            if they are not recorded.
    """
    tensors, order = {}, {}
    for path, position in positions.items():
        *groups, tensor = path.removesuffix(":0").split("/")
        if groups and tensor in _TENSORS:
            layer = next((group for group in groups if group in _KNOWN_LAYERS), groups[-1])
            tensors[path] = (layer, _TENSORS[tensor])
            if tensor in ("kernel", "moving_mean") and position:
                order[layer] = position
    norms = {layer for layer, tensor in tensors.values() if tensor in ("scale", *_STATISTICS)} - _KNOWN_LAYERS
    dense = {layer for layer, _ in tensors.values()} - _KNOWN_LAYERS - norms
    head = _name_head_layers(_order_layers(dense, order), _order_layers(norms, order))
    return {path: _make_name(head.get(layer, layer), tensor) for path, (layer, tensor) in tensors.items()}


def _order_layers(layers: set[str], positions: Mapping[str, list[int]]) -> list[str]:
    """Orders layers of one kind as in the model; without a known order, the result is empty.

    Layers of a model inside the model share its position. Their own order is that of their numbers, which Keras counts
    through a whole session, or of their tensors, in which frozen layers follow the others.

    Args:
        layers: the names of the layers.
        positions: see `map_from_keras_2`, by the name of the layer, as far as they are recorded.
    """
    are_known = layers <= positions.keys()
    are_numbered = len({re.sub(r"_?\d+", "", layer) for layer in layers}) == 1 or layers == {*HEAD_LAYERS["article"]}
    if are_known and (len({positions[layer][0] for layer in layers}) == len(layers) or not are_numbered):
        return sorted(layers, key=lambda layer: positions[layer])
    return sorted(layers, key=_split_numbers) if are_numbered else []


def map_from_keras_3(layer_names: Mapping[str, str | None]) -> dict[str, str]:
    """Maps the datasets of Keras 3 to tensor names; datasets that have none are left out.

    Args:
        layer_names: by the path of each dataset, the name of its layer in the model, or None if it is not recorded.

    Raises:
        WeightsError: a layer of MobileNet is in the place of another one.
    """
    matches = {path: match for path in layer_names if (match := _KERAS_3_PATH.fullmatch(path))}
    tensors = {path: (_NumberedLayer(m[1], m[2], int(m[3] or 0)), int(m[4])) for path, m in matches.items()}
    layers = _name_keras_3_layers({layer for layer, _ in tensors.values()})
    names = {}
    for path, (numbered, index) in tensors.items():
        layer = layers.get(numbered)
        members = _NORM_TENSORS if numbered.class_name == "batch_normalization" else _KERNEL_TENSORS
        if layer is None or index >= len(members):
            continue
        if layer_names[path] in _KNOWN_LAYERS - {layer}:
            raise WeightsError(f"swapped layers: {path} should be {layer}, but its layer is {layer_names[path]}")
        names[path] = _make_name(layer, members[index])
    return names


class _NumberedLayer(NamedTuple):
    """A layer of Keras 3: the path of its model, its class, and its number among the layers of that class there."""

    model: str
    class_name: str
    number: int


def _name_keras_3_layers(layers: set[_NumberedLayer]) -> dict[_NumberedLayer, str]:
    """Names Keras 3's layers. Those of a head are in the model of the backbone, or in one around it."""
    backbones = {layer.model for layer in layers if layer.class_name == "depthwise_conv2d"}
    names, head = {}, []
    for layer in sorted(layers):
        members = _LAYERS.get(layer.class_name, ())
        # A model around the backbone numbers its batch normalizations from 0 again.
        in_backbone = layer.class_name != "batch_normalization" or layer.model in backbones
        if in_backbone and layer.number < len(members) and members[layer.number] not in _HEAD_NORMS:
            names[layer] = members[layer.number]
        elif layer.class_name in ("dense", "batch_normalization"):
            head.append(layer)
    if len({layer.model for layer in head}) == 1:  # numbers in two models have no common order
        dense = [layer for layer in head if layer.class_name == "dense"]
        names |= _name_head_layers(dense, [layer for layer in head if layer.class_name != "dense"])
    return names


def map_to_keras_3(names: Iterable[str]) -> dict[str, str]:
    """Maps tensor names to the datasets of a `.weights.h5` of Keras 3, such as `layers/depthwise_conv2d_4/vars/0`."""
    names = list(names)
    layers = {name.split(".")[1] for name in names}
    dense = tuple(layer for layer in HEAD_LAYERS["article"] if layer in layers)
    groups = {
        layer: f"layers/{class_name}_{i}" if i else f"layers/{class_name}"
        for class_name, members in {**_LAYERS, "dense": dense}.items()
        for i, layer in enumerate(members)
    }
    paths = {}
    for name in names:
        _, layer, tensor = name.split(".")
        members = _NORM_TENSORS if layer.endswith("_bn") else _KERNEL_TENSORS
        paths[name] = f"{groups[layer]}/vars/{members.index(tensor)}"
    return paths


def _split_numbers(name: str) -> list[str | int]:
    """Splits a name at its numbers: sorted by the result, `dense_9` comes before `dense_10`."""
    parts = re.split("([0-9]{1,9})", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _name_head_layers(dense: list[_Layer], norms: list[_Layer]) -> dict[_Layer, str]:
    """Names the dense layers and the batch normalizations of a head, each given in their order."""
    known = {3: HEAD_LAYERS["article"], 1: HEAD_LAYERS["small"]}.get(len(dense), ())
    names = dict(zip(dense, known, strict=False))
    if (len(dense), len(norms)) == (3, 2):
        names |= dict(zip(norms, _HEAD_NORMS, strict=True))
    return names


def _make_name(layer: str, tensor: str) -> str:
    return f"{'batch_stats' if tensor in _STATISTICS else 'params'}.{layer}.{tensor}"
