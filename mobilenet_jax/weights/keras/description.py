"""Validates the JSON description of a model in `.keras` files and in whole-model HDF5 files.

Two models with the same tensors can compute different things: they can differ in pooling or activations, or rescale
pixels inside. If a file describes its model, these are compared. Nothing in the description is executed.
"""

import json
from collections.abc import Iterator
from typing import Any

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import BLOCKS, MIN_IMAGE_SIZE

_Layer = tuple[str, dict[str, Any]]  # the class name and the configuration

# The layers of MobileNet v1 and of the heads, and layers that change nothing when a model is applied.
_LAYERS = {
    "InputLayer", "ZeroPadding2D", "Conv2D", "DepthwiseConv2D", "BatchNormalization", "ReLU", "Activation",
    "GlobalAveragePooling2D", "Flatten", "Reshape", "Dropout", "SpatialDropout2D", "Dense", "Softmax",
    "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom", "RandomBrightness", "RandomContrast",
    "Functional", "Model", "Sequential",
}  # fmt: skip
_LAST_OF_BACKBONE = "conv_pw_13_relu"
_EPSILON = 1e-3
_MAX_LISTED = 4  # layers that an error lists
_ACTIVATION_LAYERS = ("Activation", "ReLU", "Softmax")
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D")
_REDUCTIONS = ("GlobalAveragePooling2D", "Flatten", "Reshape")
_ZEROS = [[0, 1], [0, 1]]  # at the bottom and at the right


def check_description(description: str, *, head: bool) -> str | None:
    """Checks that a described model computes the same as this project's.

    Args:
        description: JSON.
        head: whether the classifier will be read. If not, everything after the backbone is ignored.

    Returns:
        The height and width of the model's images as JSON, None if it takes any.

    Raises:
        WeightsError: the model is not a MobileNet with one of this project's heads.
    """
    try:
        layers = list(_list_layers(json.loads(description)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError("the description of its model is damaged") from error
    names = [config.get("name") for _, config in layers]
    if not head and _LAST_OF_BACKBONE in names:
        layers = layers[: names.index(_LAST_OF_BACKBONE) + 1]
    unknown = [f"{class_name} {config.get('name')}" for class_name, config in layers if class_name not in _LAYERS]
    if unknown:
        more = f" and {len(unknown) - _MAX_LISTED} more" if len(unknown) > _MAX_LISTED else ""
        raise WeightsError(
            f"its model has layers that MobileNet v1 does not have: {', '.join(unknown[:_MAX_LISTED])}{more}; if they "
            "only scale pixels, convert the file of save_weights('NAME.weights.h5'), with --input-scaling LOW HIGH"
        )
    if any(config.get("data_format") == "channels_first" for _, config in layers):
        raise WeightsError("its model works on channels first; save it with data_format='channels_last'")
    if any(
        class_name == "BatchNormalization" and config.get("epsilon", _EPSILON) != _EPSILON
        for class_name, config in layers
    ):
        raise WeightsError(f"the epsilon of its batch normalization is not {_EPSILON}")
    class_names, size = [class_name for class_name, _ in layers], _find_image_size(layers)
    first_dense = class_names.index("Dense") if "Dense" in class_names else len(layers)
    _check_convolutions(layers[:first_dense], size)
    _check_backbone_activations(layers[:first_dense])
    is_single_position = size == [MIN_IMAGE_SIZE] * 2
    if "GlobalAveragePooling2D" in class_names and class_names.count("Dense") > 1 and not is_single_position:
        raise WeightsError("its model has global average pooling before several dense layers; expected flatten")
    _check_head_activations(layers[first_dense:])
    if first_dense < len(layers):
        _check_input_of_head(layers[:first_dense], class_names[first_dense:])
    return json.dumps(size) if size else None


def _find_image_size(layers: list[_Layer]) -> list[int] | None:
    """Returns the height and width of the model's images; None if it takes any."""
    for _, config in layers:
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if isinstance(shape, list) and len(shape) == 4 and shape[1] and shape[2]:
            if not all(isinstance(side, int) for side in shape[1:3]):
                raise WeightsError("the description of its model is damaged")
            return shape[1:3]
    return None


def _list_layers(node: Any) -> Iterator[_Layer]:
    """Yields the layers of a model in order, including those of nested models."""
    inner = node["config"] if isinstance(node["config"], list) else node["config"].get("layers")
    if inner is None:
        yield str(node["class_name"]), node["config"]
    else:
        for layer in inner:
            yield from _list_layers(layer)


def _check_convolutions(layers: list[_Layer], size: list[int] | None) -> None:
    """Checks strides, padding and dilation. The convolutions of each class are identified by their order.

    Layers of stride 2 are padded as "same" or by ZeroPadding2D: Keras's versions differ. The results are equal for
    images whose sides are multiples of 32; for others, they must be padded as in this project.
    """
    strides = {"Conv2D": iter([2]), "DepthwiseConv2D": iter([stride for _, stride in BLOCKS])}
    is_padded = False
    for class_name, config in layers:
        name, stride = config.get("name"), 1
        if class_name in _CONVOLUTIONS:
            stride = next(strides[class_name], 1)
            _check_setting(config, "strides", stride, [stride, stride])
            _check_setting(config, "dilation_rate", 1, [1, 1])
            if class_name == "DepthwiseConv2D" or stride == 2:
                _check_setting(config, "padding", "valid" if is_padded else "same")
        if is_padded and stride == 1:
            raise WeightsError(f"its layer {name} follows zero padding, which belongs to convolutions of stride 2")
        is_usual = is_padded == (class_name == "DepthwiseConv2D")  # the padding of later versions
        if stride == 2 and not is_usual and any(side % MIN_IMAGE_SIZE for side in size or ()):
            raise WeightsError(f"the padding of its layer {name} computes something else for images of {size} pixels")
        is_padded = class_name == "ZeroPadding2D"
        if is_padded:
            _check_setting(config, "padding", _ZEROS)


def _check_setting(config: dict[str, Any], key: str, *expected: Any) -> None:
    """Checks a value of a layer, which is the expected one if the description leaves it out."""
    if (value := config.get(key, expected[0])) not in expected:
        raise WeightsError(f"its layer {config.get('name')} has the {key} {value}, not {expected[-1]}")


def _check_backbone_activations(layers: list[_Layer]) -> None:
    """Checks the activations before the first dense layer. A head without one may end with softmax."""
    last_convolution = max((i for i, (class_name, _) in enumerate(layers) if class_name in _CONVOLUTIONS), default=0)
    normalization = None  # the last one that no ReLU6 has followed yet
    for i, (class_name, config) in enumerate([*layers, ("Conv2D", {})]):
        if class_name in _CONVOLUTIONS and normalization is not None:
            raise WeightsError(f"its layer {normalization} is not followed by ReLU6")
        if class_name == "BatchNormalization":
            normalization = config.get("name")
        elif class_name == "ReLU":
            _check_relu_limit(config, 6)
            normalization = None
        elif class_name in _ACTIVATION_LAYERS:
            activation = _get_activation(class_name, config)
            is_after_features = i > last_convolution and normalization is None
            if activation == "relu6":
                normalization = None
            elif activation != "linear" and not (activation in ("relu", "softmax") and is_after_features):
                raise WeightsError(f"its layer {config.get('name')} has the activation {activation}, not ReLU6")
        elif class_name in _CONVOLUTIONS and _get_activation(class_name, config) != "linear":
            raise WeightsError(f"its layer {config.get('name')} has the activation {config['activation']}, not none")


def _check_input_of_head(layers: list[_Layer], head: list[str]) -> None:
    """Checks that the first dense layer reads pooled or flattened features, and that nothing is pooled after it.

    Args:
        layers: the layers before it.
        head: the class names of the others.
    """
    last_convolution = max((i for i, (class_name, _) in enumerate(layers) if class_name in _CONVOLUTIONS), default=0)
    between = layers[last_convolution:]
    is_reduced = any(class_name in _REDUCTIONS for class_name, _ in between)
    if not is_reduced or "GlobalAveragePooling2D" in head:
        raise WeightsError("its dense layers do not read pooled or flattened features")
    for class_name, config in between:
        if class_name in _ACTIVATION_LAYERS and _get_activation(class_name, config) == "softmax":
            raise WeightsError(f"its layer {config.get('name')} is a softmax before the dense layers")


def _check_head_activations(layers: list[_Layer]) -> None:
    """Checks the activations from the first dense layer on.

    Between two dense layers there must be relu, or batch normalization and then relu; after the last, softmax or
    nothing.
    """
    following: list[list[str]] = []  # for each dense layer, the operations after it that change its values
    for class_name, config in layers:
        if class_name == "ReLU":
            _check_relu_limit(config, None)
        if class_name == "Dense":
            following.append([])
        if class_name == "BatchNormalization":
            following[-1].append("batch normalization")
        elif class_name == "Dense" or class_name in _ACTIVATION_LAYERS:
            following[-1].append(_get_activation(class_name, config))
    *hidden, last = [" and ".join(name for name in names if name != "linear") for names in following] or [""]
    is_known = set(hidden) in (set(), {"relu"}, {"batch normalization and relu"})
    if not is_known or last not in ("", "softmax"):
        described = ", ".join(names or "nothing" for names in (*hidden, last))
        raise WeightsError(
            f"its dense layers are followed by {described[:200]}; expected relu, or batch normalization and relu, and "
            "softmax or nothing after the last"
        )


def _check_relu_limit(config: dict[str, Any], expected: int | None) -> None:
    limit = config.get("max_value", expected)
    if limit != expected:
        raise WeightsError(f"its ReLU {config.get('name')} has the upper limit {limit}, not {expected}")
    if config.get("negative_slope") or config.get("threshold"):
        raise WeightsError(
            f"its ReLU {config.get('name')} has a negative slope or a threshold, which ReLU6 does not have"
        )


def _get_activation(class_name: str, config: dict[str, Any]) -> str:
    """Returns the name of the function that a layer applies; `"activation": null` is Keras's "linear"."""
    if class_name in ("Activation", "Dense", *_CONVOLUTIONS):
        return str(config.get("activation") or "linear")
    return class_name.lower()
