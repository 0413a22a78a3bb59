"""Maps the tensors of timm's and Transformers' MobileNet v1 to the names of `layout.py`.

Sources: timm's `models/efficientnet.py`, and Transformers' `models/mobilenet_v1/modeling_mobilenet_v1.py`.
"""

from collections.abc import Iterable
from typing import Literal

from mobilenet_jax.model.mobilenet import BLOCKS

Library = Literal["timm", "transformers"]

_STAGES = (1, 2, 2, 6, 2)  # blocks in each stage of timm
_NORM_TENSORS = {
    "params.{}_bn.scale": "weight",
    "params.{}_bn.bias": "bias",
    "batch_stats.{}_bn.mean": "running_mean",
    "batch_stats.{}_bn.var": "running_var",
}
# The heads `imagenet` and `small` compute the same; a classifier is read as the latter, a dense layer as it is.
_CLASSIFIER = {
    f"params.{layer}.{ours}": f"classifier.{theirs}"
    for layer in ("conv_preds", "predictions")
    for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
}
_PREFIX = "mobilenet_v1."  # Transformers adds it
_COUNTER = "num_batches_tracked"  # of each batch normalization; PyTorch does not use it at a constant momentum


def detect_library(names: Iterable[str]) -> Library | None:
    """Returns the library that a file with these tensors was written for, None if it is neither."""
    names = set(names)
    if "conv_stem.weight" in names:
        return "timm"
    stem = "conv_stem.convolution.weight"
    return "transformers" if stem in names or f"{_PREFIX}{stem}" in names else None


def map_to_library(library: Library) -> dict[str, str]:
    """Maps the names of `layout.py` to those of a library, in the order of the layers."""
    names = {}
    for layer, (conv, norm) in _list_layers(library).items():
        names[f"params.{layer}.kernel"] = f"{conv}.weight"
        names |= {ours.format(layer): f"{norm}.{theirs}" for ours, theirs in _NORM_TENSORS.items()}
    return names | _CLASSIFIER


def map_from_library(library: Library) -> dict[str, str]:
    """Maps the names of a library to those of `layout.py`; a classifier has the names of the head `small`.

    Transformers' `MobileNetV1Model`, which has no classifier, is saved without the prefix of the others.
    """
    names = map_to_library(library)
    return {key: ours for ours, theirs in names.items() for key in (theirs, theirs.removeprefix(_PREFIX))}


def list_counters(library: Library, layers: Iterable[str]) -> list[str]:
    """Returns the names of the counters that PyTorch keeps for the batch normalizations of layers."""
    norms = _list_layers(library)
    return [f"{norms[layer][1]}.{_COUNTER}" for layer in layers]


def is_counter(name: str) -> bool:
    """Returns whether a tensor is the counter of a batch normalization."""
    return name.endswith(f".{_COUNTER}")


def _list_layers(library: Library) -> dict[str, tuple[str, str]]:
    """Returns the library's names of the convolution and the batch normalization of each layer."""
    if library == "timm":
        positions = [f"blocks.{stage}.{block}" for stage, n in enumerate(_STAGES) for block in range(n)]
        blocks = {
            f"conv_{conv}_{i}": (f"{position}.conv_{conv}", f"{position}.{norm}")
            for i, position in enumerate(positions, start=1)
            for conv, norm in (("dw", "bn1"), ("pw", "bn2"))
        }
        return {"conv1": ("conv_stem", "bn1"), **blocks, "conv_head": ("conv_head", "bn2")}
    layers = ["conv1", *(f"conv_{conv}_{i}" for i in range(1, len(BLOCKS) + 1) for conv in ("dw", "pw"))]
    paths = ["conv_stem", *(f"layer.{i}" for i in range(2 * len(BLOCKS)))]
    return {
        layer: (f"{_PREFIX}{path}.convolution", f"{_PREFIX}{path}.normalization")
        for layer, path in zip(layers, paths, strict=True)
    }
