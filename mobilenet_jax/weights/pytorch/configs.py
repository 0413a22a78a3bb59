"""Reads and builds the JSON files beside the weights of timm and Transformers.

The tensors do not show padding, epsilon, input range and class names. These files do; without them, the defaults of the
library apply, as in the library itself.
Sources: timm's `models/_hub.py` and `models/efficientnet.py`, and Transformers' `configuration_mobilenet_v1.py` and
`image_processing_mobilenet_v1.py`.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.preprocessing import STRETCH, InputScaling, Preprocessing
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import StridedPadding
from mobilenet_jax.weights.layout import KERAS_SIZE, Architecture, Shape, check_variant, express_padding
from mobilenet_jax.weights.metadata import Metadata, compute_mean_std, format_input_scaling, make_input_scaling
from mobilenet_jax.weights.pytorch.json_object import LARGEST, JsonObject
from mobilenet_jax.weights.pytorch.names import Library

_FILES: dict[Library, tuple[str, ...]] = {
    "timm": ("config.json",),
    "transformers": ("config.json", "preprocessor_config.json"),
}
_TITLES: dict[Library, str] = {"timm": "timm", "transformers": "Transformers"}
_TIMM_NAMES = {(1.0, False): "mobilenetv1_100", (1.0, True): "mobilenetv1_100h", (1.25, False): "mobilenetv1_125"}
_ANY = (None, None)  # alpha and conv_head of a model that is not named
_TIMM_EPSILON, _TRANSFORMERS_EPSILON = 1e-5, 1e-3
_CROP = Preprocessing("crop")
_TIMM_PADDINGS: dict[StridedPadding, str] = {"symmetric": "", "same": "same"}  # by `pad_type`
# Arguments of a model that change nothing, or nothing that the shapes of the tensors do not show.
_NEUTRAL_ARGUMENTS = {"num_classes", "in_chans", "drop_rate", "drop_path_rate"}
_MIN_TRANSFORMERS_ALPHA = 0.25  # below it, Transformers does not narrow the first layer
_SMALLEST = 1e-6  # standard deviation with which an input range is not empty
# Mean and standard deviation of pixels from -1 to 1: of all MobileNets v1 that both libraries publish.
_NORMALIZED = [0.5, 0.5, 0.5]
# timm's defaults for a described model: ImageNet's.
_TIMM_MEAN, _TIMM_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

_OTHER_CROP = "%s crops or pads images in another way than resize=%s, so the probabilities of photographs will differ"
_logger = logging.getLogger(__name__)


class Description(NamedTuple):
    """The facts in the files beside the weights; see `WeightsFile`. `files` are those that exist."""

    metadata: Metadata
    alpha: str | None
    variant: dict[str, Any]
    files: tuple[Path, ...] = ()


def read_description(folder: Path, library: Library, shapes: Mapping[str, Shape]) -> Description:
    """Reads `config.json` and, of Transformers, `preprocessor_config.json`.

    Both may be missing: the defaults of the library apply then, with a warning; images are resized with `crop`.

    Args:
        folder: the folder of the weights.
        library: the library that wrote them.
        shapes: the shapes of the tensors by their names of `layout.py`, in PyTorch's layout.

    Raises:
        WeightsError: the files are damaged, describe a model that `MobileNet` cannot express, or are not those of the
            weights.
    """
    paths = [folder / name for name in _FILES[library]]
    objects = [JsonObject.read(path) for path in paths]
    description = _describe_timm(objects[0], shapes) if library == "timm" else _describe_transformers(*objects)
    files = tuple(path for path in paths if path.is_file())
    facts = [f"{name}={value}" for name, value in description.variant.items()] if paths[0] not in files else []
    if paths[-1] not in files:  # holds the preprocessing
        facts.append(f"resize={description.metadata.preprocessing.resize}")
        facts.append(f"input scaling {format_input_scaling(description.metadata.input_scaling)}")
    if facts:
        missing = " and ".join(str(path) for path in paths if path not in files)
        _logger.warning("%s not found: assuming %s", missing, ", ".join(facts))
    return description._replace(files=files)


def _read_timm_range(pretrained: JsonObject) -> tuple[list[float], list[float]]:
    """Returns the mean and the standard deviation of the pixels, per channel."""
    mean, std = _TIMM_MEAN, _TIMM_STD
    if pretrained.values.get("mean"):
        mean = pretrained.read_channels("mean", mean, -LARGEST)
    if pretrained.values.get("std"):
        std = pretrained.read_channels("std", std, _SMALLEST)
    return mean, std


def _describe_timm(config: JsonObject, shapes: Mapping[str, Shape]) -> Description:
    values, arguments = config.values, config.read_object("model_args")
    if "model_type" in values:
        raise WeightsError("config.json beside it is that of Transformers, but the tensors are those of timm")
    pretrained = config.read_object("pretrained_cfg")
    if not pretrained.values:
        pretrained = config  # older files have a single level
    if values.get("architecture", "mobilenetv1_100") not in _TIMM_NAMES.values():
        config.refuse("architecture", f"one of {', '.join(_TIMM_NAMES.values())}")
    alpha, has_conv_head = next((key for key, name in _TIMM_NAMES.items() if name == values.get("architecture")), _ANY)
    if has_conv_head not in (None, "params.conv_head.kernel" in shapes):
        config.refuse("architecture", "that of the tensors")
    classifier = shapes.get("params.predictions.kernel")
    if classifier and values.get("num_classes") not in (None, classifier[0]):
        config.refuse("num_classes", f"{classifier[0]}, as in the classifier")
    if unknown := sorted(arguments.values.keys() - _NEUTRAL_ARGUMENTS - {"pad_type", "bn_eps", "global_pool"}):
        raise WeightsError(f"config.json beside it sets {', '.join(unknown)[:200]}, which MobileNet does not have")
    if values.get("global_pool") not in (None, "avg", ""):  # "" for a model that ends with its features
        config.refuse("global_pool", '"avg"')
    if arguments.values.get("global_pool", "avg") not in ("avg", ""):
        arguments.refuse("global_pool", '"avg"')
    paddings = [padding for padding, name in _TIMM_PADDINGS.items() if name == arguments.values.get("pad_type", "")]
    if not paddings:
        arguments.refuse("pad_type", '"" or "same"')
    # timm takes null for its default, and 0 and an empty list too for the range.
    epsilon = _TIMM_EPSILON
    if arguments.values.get("bn_eps") is not None:
        epsilon = arguments.read_number("bn_eps", epsilon, 0, 1)
    mean, std = _read_timm_range(pretrained) if values else (_NORMALIZED, _NORMALIZED)
    size = KERAS_SIZE
    if (shape := pretrained.values.get("input_size")) is not None:
        size = pretrained.check_sides("input_size", shape[1:] if isinstance(shape, list) and len(shape) == 3 else None)
    labels = [(config, "label_names"), (pretrained, "label_names"), (pretrained, "labels")]
    classes = next((_read_labels(*label) for label in labels if label[0].values.get(label[1])), None)
    variant = {"padding": paddings[0], "batch_norm_epsilon": epsilon}
    crop = pretrained.values.get("crop_mode") or "center", pretrained.values.get("crop_pct") or 0.875  # timm's defaults
    preprocessing = _CROP if crop[0] == "center" else STRETCH
    if pretrained.values and crop not in (("center", 1), ("squash", 1)):
        _logger.warning(_OTHER_CROP, _TITLES["timm"], preprocessing.resize)
    metadata = Metadata(size, make_input_scaling(mean, std), classes, preprocessing=preprocessing)
    return Description(metadata, None if alpha is None else str(alpha), check_variant(variant))


def _read_labels(labels: JsonObject, key: str) -> tuple[str, ...]:
    names = labels.values[key]
    if not isinstance(names, list):
        labels.refuse(key, "a list")
    return labels.check_classes(key, names)


def _describe_transformers(config: JsonObject, processor: JsonObject) -> Description:
    if "architecture" in config.values:
        raise WeightsError("config.json beside it is that of timm, but the tensors are those of Transformers")
    if config.values.get("model_type", "mobilenet_v1") != "mobilenet_v1":
        config.refuse("model_type", '"mobilenet_v1"')
    if config.values.get("hidden_act", "relu6") != "relu6":
        config.refuse("hidden_act", '"relu6"')
    if processor.values.get("do_flip_channel_order"):
        raise WeightsError("preprocessor_config.json beside it exchanges red and blue: MobileNet takes RGB")
    tf_padding = config.values.get("tf_padding", True)
    if not isinstance(tf_padding, bool):
        config.refuse("tf_padding", "true or false")
    variant = {
        "padding": "same" if tf_padding else "symmetric",
        "batch_norm_epsilon": config.read_number("layer_norm_eps", _TRANSFORMERS_EPSILON, 0, 1),
    }
    alpha, preprocessing = None, _CROP
    if "depth_multiplier" in config.values:
        alpha = str(config.read_number("depth_multiplier", 1, 0, LARGEST))
    if processor.values:
        size, preprocessing = _read_processor_size(processor)
        scaling = _read_processor_range(processor)
    else:
        size, scaling = config.read_size("image_size"), make_input_scaling(_NORMALIZED, _NORMALIZED)
    metadata = Metadata(size, scaling, _read_id2label(config), preprocessing=preprocessing)
    return Description(metadata, alpha, check_variant(variant))


def _read_processor_size(processor: JsonObject) -> tuple[tuple[int, int] | None, Preprocessing]:
    """Returns the size of the images, and the most similar way to resize them; a warning if it is not the same."""
    if not processor.values.get("do_center_crop", "crop_size" in processor.values):
        return processor.read_size("size"), STRETCH
    size, resized = processor.read_size("crop_size"), processor.values.get("size")
    if size and resized == {"height": size[0], "width": size[1]}:
        return size, STRETCH
    shortest = resized.get("shortest_edge") if isinstance(resized, dict) else resized
    is_square = size is not None and size[0] == size[1]
    preprocessing = _CROP if is_square and isinstance(shortest, int) else STRETCH
    if preprocessing == STRETCH or size != (shortest, shortest):
        _logger.warning(_OTHER_CROP, _TITLES["transformers"], preprocessing.resize)
    return size, preprocessing


def _read_processor_range(processor: JsonObject) -> InputScaling:
    scale, mean, std = 255.0, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    if processor.values.get("do_rescale", True):
        scale *= processor.read_number("rescale_factor", 1 / 255, _SMALLEST, LARGEST)
    if processor.values.get("do_normalize", True):
        mean = processor.read_channels("image_mean", _NORMALIZED, -LARGEST)
        std = processor.read_channels("image_std", _NORMALIZED, _SMALLEST)
    return make_input_scaling([m / scale for m in mean], [s / scale for s in std])


def _read_id2label(config: JsonObject) -> tuple[str, ...] | None:
    """Returns the class names; None if there are none, or only those that Transformers makes up."""
    labels = config.read_object("id2label").values
    ids = [str(i) for i in range(len(labels))]
    if labels.keys() != set(ids):
        config.refuse("id2label", f"an object of {len(ids)} names with the ids 0 to {len(ids) - 1}")
    classes = config.check_classes("id2label", [labels[i] for i in ids])
    return classes if classes and classes != _make_labels(len(ids)) else None


def _make_labels(number: int) -> tuple[str, ...]:
    """Returns the class names that Transformers makes up where none are known."""
    return tuple(f"LABEL_{i}" for i in range(number))


def build_files(library: Library, architecture: Architecture, metadata: Metadata) -> dict[str, dict[str, Any]]:
    """Builds the JSON files that the library needs beside `model.safetensors`, by name.

    Args:
        library: the library.
        architecture: the model.
        metadata: the metadata of the weights.

    Raises:
        WeightsError: the library's MobileNet v1 or its preprocessing cannot express the model.
    """
    if architecture.has_fixed_size:
        raise WeightsError(
            f"{_TITLES[library]} has no MobileNet v1 with the head {architecture.head!r}, only with a single layer"
        )
    if (steps := metadata.preprocessing).color_constancy != "none":
        raise WeightsError(f"{_TITLES[library]} cannot express color_constancy={steps.color_constancy}")
    size = metadata.image_size or KERAS_SIZE
    padding = express_padding(_TITLES[library], architecture.padding, size, ("same", "symmetric"))
    if library == "timm":
        return {"config.json": _build_timm_config(architecture, metadata, size, _TIMM_PADDINGS[padding])}
    return {
        "config.json": _build_transformers_config(architecture, metadata, size, padding == "same"),
        "preprocessor_config.json": _build_processor(metadata, size),
    }


def _build_timm_config(
    architecture: Architecture, metadata: Metadata, size: tuple[int, int], pad_type: str
) -> dict[str, Any]:
    name = _TIMM_NAMES.get((architecture.alpha, architecture.conv_head))
    if name is None:
        suffix = " with conv_head" if architecture.conv_head else ""
        raise WeightsError(
            f"timm has no MobileNet v1 of alpha {architecture.alpha}{suffix}: it has 1.0 and 1.25, and 1.0 with "
            "conv_head"
        )
    epsilon, (mean, std) = architecture.batch_norm_epsilon, compute_mean_std(metadata.input_scaling)
    arguments = ({"pad_type": pad_type} if pad_type else {}) | ({"bn_eps": epsilon} if epsilon != _TIMM_EPSILON else {})
    pretrained = {
        "input_size": [3, *size],
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center" if metadata.preprocessing == _CROP else "squash",  # squash: resizes the whole image
        "num_classes": architecture.num_classes,
        "first_conv": "conv_stem",
        "classifier": "classifier",
    }
    labels = {"label_names": list(metadata.classes)} if metadata.classes else {}
    return {
        "architecture": name,
        "num_classes": architecture.num_classes,
        "global_pool": "avg",
        **({"model_args": arguments} if arguments else {}),
        **labels,
        "pretrained_cfg": pretrained,
    }


def _build_transformers_config(
    architecture: Architecture, metadata: Metadata, size: tuple[int, int], tf_padding: bool
) -> dict[str, Any]:
    if architecture.head is None:
        raise WeightsError(
            "the model has no classifier, and Transformers would add one of random weights: choose another format"
        )
    if architecture.conv_head:
        raise WeightsError("Transformers' MobileNet v1 has no layer conv_head")
    if architecture.alpha < _MIN_TRANSFORMERS_ALPHA:
        raise WeightsError(f"Transformers has no MobileNet v1 of alpha {architecture.alpha}: the smallest is 0.25")
    classes = dict(enumerate(metadata.classes or _make_labels(architecture.num_classes)))
    return {
        "architectures": ["MobileNetV1ForImageClassification"],
        "model_type": "mobilenet_v1",
        "depth_multiplier": architecture.alpha,
        "min_depth": 8,
        "num_channels": 3,
        "image_size": size[0],
        "hidden_act": "relu6",
        "tf_padding": tf_padding,
        "layer_norm_eps": architecture.batch_norm_epsilon,
        "classifier_dropout_prob": 0.001,
        "id2label": {str(i): name for i, name in classes.items()},
        "label2id": {name: i for i, name in classes.items()},
    }


def _build_processor(metadata: Metadata, size: tuple[int, int]) -> dict[str, Any]:
    """Returns the settings of the processor of Transformers that resizes as `image_ops.preprocess` does."""
    height, width = size
    if metadata.preprocessing.resize == "stretch":
        name, crop = "ViTImageProcessor", {"size": {"height": height, "width": width}, "do_center_crop": False}
    elif height == width:
        crop = {
            "size": {"shortest_edge": height},
            "do_center_crop": True,
            "crop_size": {"height": height, "width": width},
        }
        name = "MobileNetV1ImageProcessor"
    else:
        raise WeightsError(f"Transformers cannot express resize=crop for {height} x {width} pixels, only for squares")
    mean, std = compute_mean_std(metadata.input_scaling)
    return {
        "image_processor_type": name,
        "do_resize": True,
        **crop,
        "resample": 2,  # bilinear; when it reduces an image, the filter is as wide as the areas that are averaged here
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }
