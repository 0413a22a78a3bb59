"""The layer table of the network: for the backbone, the rows, shapes and parameters of Keras's `model.summary()`."""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mobilenet_jax.model.mobilenet import MobileNet

# Keras's names of the layer types, by Flax class.
_KERAS_TYPES = {
    "ZeroPadding": "ZeroPadding2D",
    "Conv": "Conv2D",
    "StemConv": "Conv2D",
    "PointwiseConv": "Conv2D",
    "DepthwiseConv": "DepthwiseConv2D",
    "BatchNorm": "BatchNormalization",
    "ReLU6": "ReLU",
}
_WIDTH = 65  # characters, as in Keras 2


class Row(NamedTuple):
    """One layer.

    Attributes:
        name: the name of the layer.
        type: Keras's name of its type.
        shape: the shape of its output without the batch axis.
        params: the number of its parameters, statistics of batch normalization included.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    params: int


class Summary(NamedTuple):
    """The layer table.

    Attributes:
        rows: the layers in the order in which they are applied.
        total: the number of parameters, statistics of batch normalization included.
        trainable: the number of parameters without these statistics.
        non_trainable: the number of these statistics.
    """

    rows: list[Row]
    total: int
    trainable: int
    non_trainable: int


def summarize(alpha: float = 1.0, image_size: int = 224, include_top: bool = False) -> Summary:
    """Lists the layers of MobileNet in the order in which they are applied, without computing their values.

    Args:
        alpha: the width multiplier.
        image_size: the height and width of the input in pixels.
        include_top: whether to include Keras's classifier for the 1000 classes of ImageNet.
    """
    model = MobileNet(alpha=alpha, head="imagenet" if include_top else None, num_classes=1000)
    images = jnp.zeros((1, image_size, image_size, 3))
    variables, calls = _trace_layers(model, images)
    rows = [Row("input_1", "InputLayer", images.shape[1:], 0)]
    for name, flax_type, shape in calls:
        params = sum(_count_values(layers.get(name, {})) for layers in variables.values())
        rows.append(Row(name, _KERAS_TYPES.get(flax_type, flax_type), shape, params))
    trainable, non_trainable = _count_values(variables["params"]), _count_values(variables["batch_stats"])
    return Summary(rows, trainable + non_trainable, trainable, non_trainable)


def _trace_layers(model: MobileNet, images: jax.Array) -> tuple[Any, list[tuple[str, str, tuple[int, ...]]]]:
    """Returns the shapes of the variables, and each layer's name, Flax class and output shape without the batch."""
    calls: list[tuple[str, str, tuple[int, ...]]] = []

    def record_layer(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        module = context.module
        # The path of the network, and of the blocks and heads that share its scope, is empty.
        if module.path and context.method_name == "__call__":
            calls.append((module.path[-1], type(module).__name__, output.shape[1:]))
        return output

    with nn.intercept_methods(record_layer):
        variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return variables, calls


def _count_values(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def format_text(summary: Summary) -> str:
    """Formats the table as Keras 2 does, 65 columns wide."""

    def format_line(*cells: str) -> str:
        return f"{cells[0][:28]:<29}{cells[1]:<26}{cells[2]:<10}"

    rows = [format_line(f"{row.name} ({row.type})", str((None, *row.shape)), str(row.params)) for row in summary.rows]
    return "\n".join(
        [
            "_" * _WIDTH,
            format_line("Layer (type)", "Output Shape", "Param #"),
            "=" * _WIDTH,
            f"\n{'_' * _WIDTH}\n".join(rows),
            "=" * _WIDTH,
            f"Total params: {summary.total:,}",
            f"Trainable params: {summary.trainable:,}",
            f"Non-trainable params: {summary.non_trainable:,}",
        ]
    )


def format_json(summary: Summary) -> str:
    """Formats the table as one JSON object.

    Its keys are `layers` (a list of objects with `name`, `type`, `shape` and `params`; the batch axis of a shape is
    null), `total`, `trainable` and `non_trainable`.
    """
    layers = [{**row._asdict(), "shape": [None, *row.shape]} for row in summary.rows]
    totals = {key: value for key, value in summary._asdict().items() if key != "rows"}
    return json.dumps({"layers": layers, **totals}, indent=2)
