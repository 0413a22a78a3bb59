"""What a Keras model's own description (JSON, in `.keras` and in whole-model HDF5) tells that its tensors do not.

Two models with the same tensors can compute different things: by another pooling, another activation, or pixels scaled
inside. Where a file describes its model, these are looked at. Nothing of the description is run.
"""

import json
from collections.abc import Iterator
from typing import Any

from mobilenet_jax.errors import WeightsError

# The layers of MobileNet v1 and of the heads, and layers that change nothing when a model is applied.
_LAYERS = {
    "InputLayer", "ZeroPadding2D", "Conv2D", "DepthwiseConv2D", "BatchNormalization", "ReLU", "Activation",
    "GlobalAveragePooling2D", "Flatten", "Reshape", "Dropout", "SpatialDropout2D", "Dense", "Softmax",
    "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom", "RandomBrightness", "RandomContrast",
    "Functional", "Model", "Sequential",
}  # fmt: skip
_LAST_OF_BACKBONE = "conv_pw_13_relu"


def check_description(description: str, *, head: bool) -> str | None:
    """Checks that a described model computes what this project's does.

    Args:
        description: JSON.
        head: whether the classifier is wanted; without it, whatever comes after the backbone is passed over.

    Returns:
        The height and width of its images as JSON, None if it takes any.

    Raises:
        WeightsError: it is something else than a MobileNet with one of this project's heads.
    """
    try:
        layers = list(_layers(json.loads(description)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError("the description of its model is damaged") from error
    names = [config.get("name") for _, config in layers]
    if not head and _LAST_OF_BACKBONE in names:
        layers = layers[: names.index(_LAST_OF_BACKBONE) + 1]
    unknown = [f"{kind} {config.get('name')}" for kind, config in layers if kind not in _LAYERS]
    if unknown:
        more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
        raise WeightsError(f"its model has layers MobileNet v1 does not have: {', '.join(unknown[:4])}{more}")
    if any(config.get("data_format") == "channels_first" for _, config in layers):
        raise WeightsError("its model works on channels first; save it with data_format='channels_last'")
    if any(kind == "BatchNormalization" and config.get("epsilon", 1e-3) != 1e-3 for kind, config in layers):
        raise WeightsError("its batch normalizations have another epsilon than 0.001")
    _check_activations(layers)
    for _, config in layers:
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if isinstance(shape, list) and len(shape) == 4 and shape[1] and shape[2]:
            return json.dumps(shape[1:3])
    return None


def _check_activations(layers: list[tuple[str, dict[str, Any]]]) -> None:
    """ReLU6 in the backbone; relu in a head, if there is batch normalization after it; and softmax or nothing last."""
    dense: list[list[str]] = []  # what follows each dense layer and changes its values
    for kind, config in layers:
        function = str(config.get("activation", "linear")) if kind in ("Activation", "Dense") else kind.lower()
        if kind == "Dense":
            dense.append([function])
        elif kind == "BatchNormalization" and dense:
            dense[-1].append("batch normalization")
        elif kind in ("Activation", "ReLU", "Softmax"):
            wanted = None if dense else 6
            if kind == "ReLU" and config.get("max_value", wanted) != wanted:
                raise WeightsError(f"its ReLU {config.get('name')} ends at {config['max_value']}, not at {wanted}")
            if dense:
                dense[-1].append(function)
            elif function not in ("relu", "relu6", "softmax", "linear"):
                raise WeightsError(f"its layer {config.get('name')} has the activation {function}")
    *hidden, last = [" and ".join(name for name in after if name != "linear") for after in dense] or [""]
    known: tuple[set[str], ...] = (set(), {"relu"}, {"batch normalization and relu"})
    if set(hidden) not in known or last not in ("", "softmax"):
        told = ", ".join(after or "nothing" for after in (*hidden, last))
        raise WeightsError(
            f"its dense layers are followed by {told[:200]}; here by relu, or by batch normalization and relu, and the "
            "last by softmax or nothing"
        )


def _layers(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The class and the configuration of each layer, in order; of a model in a model too."""
    inner = node["config"] if isinstance(node["config"], list) else node["config"].get("layers")
    if inner is None:
        yield str(node["class_name"]), node["config"]
    else:
        for layer in inner:
            yield from _layers(layer)
