"""What Keras calls the tensors of a MobileNet, and what each is called here.

Keras 1 and 2 name a dataset by layer and tensor (`conv1/conv1/kernel:0`). Keras 3 numbers both (`layers/conv2d/vars/0`,
`layers/conv2d_1/vars/0`): the layers of a class in the order of the model, and the tensors of a layer in the order they
are made in. Sources: Keras's `legacy/saving/legacy_h5_format.py` and `saving/saving_lib.py`.
"""

import re
from collections.abc import Iterable, Mapping

from mobilenet_jax.pretrained.tensors import HEAD_LAYERS, WeightsError

HEAD_NORMS = ("dense_1_bn", "dense_2_bn")

# The layers that have tensors, by Keras 3's name of their class. Dense layers are a head's.
_LAYERS = {
    "conv2d": ("conv1", *(f"conv_pw_{i}" for i in range(1, 14)), "conv_preds"),
    "depthwise_conv2d": tuple(f"conv_dw_{i}" for i in range(1, 14)),
    "batch_normalization": (
        "conv1_bn",
        *(f"conv_{kind}_{i}_bn" for i in range(1, 14) for kind in ("dw", "pw")),
        *HEAD_NORMS,
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

    The layers of a head are told by their order, since Keras numbers them on through a session.
    """
    found = {}
    for path in paths:
        *groups, tensor = path.removesuffix(":0").split("/")
        if groups and tensor in _TENSORS:
            found[path] = (next((group for group in groups if group in _KNOWN), groups[-1]), _TENSORS[tensor])
    others = {layer for layer, _ in found.values()} - _KNOWN
    norms = {layer for layer, tensor in found.values() if tensor in ("scale", "mean", "var")} & others
    head = _head(sorted(others - norms, key=_in_numbers_order))
    head |= dict(zip(sorted(norms, key=_in_numbers_order), HEAD_NORMS, strict=False))
    return {path: _name(head.get(layer, layer), tensor) for path, (layer, tensor) in found.items()}


def from_keras_3(layer_names: Mapping[str, str | None]) -> dict[str, str]:
    """The same for Keras 3's datasets.

    Args:
        layer_names: what the layer of each dataset was called in its model, by the dataset's path; None if not told.

    Raises:
        WeightsError: a layer of MobileNet stands where another one belongs.
    """
    pattern = re.compile(rf"(?:.*/)?({'|'.join(_LAYERS)}|dense)(?:_(\d{{1,4}}))?/vars/(\d)")
    found = {path: match for path in layer_names if (match := pattern.fullmatch(path))}
    dense = _head(sorted({match[2] or "0" for match in found.values() if match[1] == "dense"}, key=int))
    names = {}
    for path, match in found.items():
        kind, number, tensor = match[1], match[2] or "0", int(match[3])
        members = _LAYERS.get(kind, ())
        layer = dense.get(number) if kind == "dense" else dict(enumerate(members)).get(int(number))
        tensors = ("scale", "bias", "mean", "var") if kind == "batch_normalization" else ("kernel", "bias")
        if layer is None or tensor >= len(tensors):
            continue
        if layer_names[path] in _KNOWN - {layer}:
            raise WeightsError(f"swapped layers: {path} stands for {layer} but is of layer {layer_names[path]}")
        names[path] = _name(layer, tensors[tensor])
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


def _head(layers: list[str]) -> dict[str, str]:
    """The names here of a head's dense layers, given in their order."""
    known = {3: HEAD_LAYERS["article"], 1: HEAD_LAYERS["small"]}.get(len(layers), ())
    return dict(zip(layers, known, strict=False))


def _name(layer: str, tensor: str) -> str:
    return f"{'batch_stats' if tensor in ('mean', 'var') else 'params'}.{layer}.{tensor}"
