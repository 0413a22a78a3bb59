"""The layer table of the backbone: the rows, shapes and parameter counts Keras's `model.summary()` prints."""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mobilenet_jax.model.mobilenet import MobileNet

# What Keras calls each layer, by this project's class.
_KERAS_NAMES = {
    "ZeroPadding": "ZeroPadding2D",
    "Conv": "Conv2D",
    "PointwiseConv": "Conv2D",
    "DepthwiseConv": "DepthwiseConv2D",
    "BatchNorm": "BatchNormalization",
    "ReLU6": "ReLU",
}


class Row(NamedTuple):
    """A layer: its name, Keras's name of its type, its output's shape without the batch, and its parameters."""

    name: str
    type: str
    shape: tuple[int, ...]
    params: int


class Summary(NamedTuple):
    """The rows of the table and its last three lines."""

    rows: list[Row]
    total: int
    trainable: int
    non_trainable: int


def summarize(alpha: float = 1.0, image_size: int = 224, include_top: bool = False) -> Summary:
    """Lists the layers of MobileNet in the order they are applied. Nothing is computed but shapes.

    Args:
        alpha: the width multiplier.
        image_size: height and width of the input in pixels.
        include_top: whether to go on through Keras's classifier for the 1000 classes of ImageNet.
    """
    model = MobileNet(alpha=alpha, head="imagenet" if include_top else None, num_classes=1000)
    called: list[tuple[str, str, tuple[int, ...]]] = []

    def note_layer(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        out = call(*args, **kwargs)
        if context.module.name and context.method_name == "__call__":
            called.append((context.module.name, type(context.module).__name__, out.shape[1:]))
        return out

    with nn.intercept_methods(note_layer):
        images = jnp.zeros((1, image_size, image_size, 3))
        variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

    def count(collection: str, layer: str | None = None) -> int:
        tree = variables[collection] if layer is None else variables[collection].get(layer, {})
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    rows = [Row("input_1", "InputLayer", images.shape[1:], 0)]
    for name, kind, shape in called:
        params = count("params", name) + count("batch_stats", name)
        rows.append(Row(name, _KERAS_NAMES.get(kind, kind), shape, params))
    trainable, rest = count("params"), count("batch_stats")
    return Summary(rows, trainable + rest, trainable, rest)


def format_text(summary: Summary) -> str:
    """The table as Keras 2 lays it out, 65 columns wide."""

    def line(*cells: str) -> str:
        return f"{cells[0][:28]:<29}{cells[1]:<26}{cells[2]:<10}"

    rows = [
        line(f"{row.name} ({row.type})", str((None, *row.shape)), str(row.params)) + "\n" + "_" * 65
        for row in summary.rows
    ]
    rows[-1] = rows[-1].replace("_" * 65, "=" * 65)
    return "\n".join(
        [
            "_" * 65,
            line("Layer (type)", "Output Shape", "Param #"),
            "=" * 65,
            *rows,
            f"Total params: {summary.total:,}",
            f"Trainable params: {summary.trainable:,}",
            f"Non-trainable params: {summary.non_trainable:,}",
        ]
    )


def format_json(summary: Summary) -> str:
    """The same as one JSON object: `layers` (name, type, shape, params), `total`, `trainable`, `non_trainable`."""
    layers = [{**row._asdict(), "shape": [None, *row.shape]} for row in summary.rows]
    return json.dumps({"layers": layers, **{k: v for k, v in summary._asdict().items() if k != "rows"}}, indent=2)
