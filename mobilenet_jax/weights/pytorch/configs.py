"""Reads and builds the JSON files beside the weights of timm and Transformers.

The tensors do not show padding, epsilon, input range and class names. These files do; without them, the defaults of the
library apply, as in the library itself.
Sources: timm's `models/_hub.py` and `models/efficientnet.py`, and Transformers' `configuration_mobilenet_v1.py` and
`image_processing_mobilenet_v1.py`.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import StridedPadding
from mobilenet_jax.weights.damage import report_damage
from mobilenet_jax.weights.layout import KERAS_SIZE, Architecture, check_variant, express_padding
from mobilenet_jax.weights.metadata import Metadata, compute_mean_std, make_input_scaling
from mobilenet_jax.weights.pytorch.names import Library

_MAX_BYTES = 8 << 20
_TIMM_NAMES = {(1.0, False): "mobilenetv1_100", (1.0, True): "mobilenetv1_100h", (1.25, False): "mobilenetv1_125"}
_TIMM_EPSILON, _TRANSFORMERS_EPSILON = 1e-5, 1e-3
_TIMM_PADDINGS: dict[StridedPadding, str] = {"symmetric": "", "same": "same"}  # by `pad_type`
# Arguments of a model that change nothing, or nothing that the shapes of the tensors do not show.
_NEUTRAL_ARGUMENTS = {"num_classes", "in_chans", "drop_rate", "drop_path_rate"}
_MIN_TRANSFORMERS_ALPHA = 0.25  # below it, Transformers does not narrow the first layer
# Mean and standard deviation of pixels from -1 to 1: of all MobileNets v1 that both libraries publish.
_NORMALIZED = [0.5, 0.5, 0.5]
# timm's defaults for a described model: ImageNet's.
_TIMM_MEAN, _TIMM_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Description(NamedTuple):
    """The facts in the files beside the weights; see `WeightsFile`."""

    metadata: Metadata
    alpha: str | None
    variant: dict[str, Any]


def read_description(folder: Path, library: Library) -> Description:
    """Reads `config.json` and, of Transformers, `preprocessor_config.json`. Both may be missing.

    Raises:
        WeightsError: they are damaged, or describe a model that `MobileNet` cannot express.
    """
    with report_damage():
        config = _read_json(folder / "config.json")
        if library == "timm":
            return _describe_timm(config)
        return _describe_transformers(config, _read_json(folder / "preprocessor_config.json"))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    if path.stat().st_size > _MAX_BYTES:
        raise WeightsError(f"{path.name} beside it has more than {_MAX_BYTES:,} bytes")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise WeightsError(f"{path.name} beside it is not a JSON object")
    return content


def _describe_timm(config: dict[str, Any]) -> Description:
    arguments = config.get("model_args") or {}
    pretrained = config.get("pretrained_cfg") or config  # older files have a single level
    if config.get("architecture", "mobilenetv1_100") not in _TIMM_NAMES.values():
        raise WeightsError(f"config.json beside it is of the model {str(config['architecture'])[:80]!r}")
    if unknown := sorted(arguments.keys() - _NEUTRAL_ARGUMENTS - {"pad_type", "bn_eps", "global_pool"}):
        raise WeightsError(f"config.json beside it changes the model by {', '.join(unknown)[:200]}")
    for pool in (config.get("global_pool", "avg"), arguments.get("global_pool", "avg")):
        if pool not in ("avg", ""):  # "" for a model without pooling, which ends with its features
            raise WeightsError(f"config.json beside it has the pooling {str(pool)[:80]!r}, not 'avg'")
    paddings = {pad_type: padding for padding, pad_type in _TIMM_PADDINGS.items()}
    pad_type = arguments.get("pad_type", "")
    if pad_type not in paddings:
        raise WeightsError(f"config.json beside it has the padding {str(pad_type)[:80]!r}, not '' or 'same'")
    variant = {
        "padding": paddings[pad_type],
        "batch_norm_epsilon": float(arguments.get("bn_eps", _TIMM_EPSILON)),
    }
    _, height, width = pretrained.get("input_size", (3, *KERAS_SIZE))
    mean, std = (_TIMM_MEAN, _TIMM_STD) if config else (_NORMALIZED, _NORMALIZED)
    scaling = make_input_scaling(pretrained.get("mean", mean), pretrained.get("std", std))
    names = config.get("label_names") or pretrained.get("label_names") or pretrained.get("labels")
    if names is not None and not isinstance(names, list):
        raise WeightsError("label_names in config.json beside it is not a list")
    return Description(
        Metadata((height, width), scaling, tuple(names) if names else None), None, check_variant(variant)
    )


def _describe_transformers(config: dict[str, Any], processor: dict[str, Any]) -> Description:
    if config.get("model_type", "mobilenet_v1") != "mobilenet_v1":
        raise WeightsError(f"config.json beside it is of a model of the type {str(config['model_type'])[:80]!r}")
    if config.get("hidden_act", "relu6") != "relu6":
        raise WeightsError(f"config.json beside it has the activation {str(config['hidden_act'])[:80]!r}, not 'relu6'")
    if processor.get("do_flip_channel_order"):
        raise WeightsError("preprocessor_config.json beside it exchanges red and blue: MobileNet takes RGB")
    variant = {
        "padding": "same" if config.get("tf_padding", True) else "symmetric",
        "batch_norm_epsilon": float(config.get("layer_norm_eps", _TRANSFORMERS_EPSILON)),
    }
    labels = config.get("id2label") or {}
    classes: tuple[str, ...] | None = tuple(labels[str(i)] for i in range(len(labels)))
    if classes == _make_labels(len(labels)):
        classes = None
    if processor:
        is_cropped = processor.get("do_center_crop", "crop_size" in processor)
        size = processor.get("crop_size" if is_cropped else "size")
        scale = 255 * processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 255
        is_normalized = processor.get("do_normalize", True)
        mean = processor.get("image_mean", _NORMALIZED) if is_normalized else [0, 0, 0]
        std = processor.get("image_std", _NORMALIZED) if is_normalized else [1, 1, 1]
        scaling = make_input_scaling([m / scale for m in mean], [s / scale for s in std])
    else:
        size, scaling = config.get("image_size"), make_input_scaling(_NORMALIZED, _NORMALIZED)
    alpha = str(float(config["depth_multiplier"])) if "depth_multiplier" in config else None
    return Description(Metadata(_parse_size(size), scaling, classes), alpha, check_variant(variant))


def _make_labels(number: int) -> tuple[str, ...]:
    """Returns the class names that Transformers makes up where none are known."""
    return tuple(f"LABEL_{i}" for i in range(number))


def _parse_size(size: Any) -> tuple[int, int] | None:
    if isinstance(size, dict):
        return (size["height"], size["width"]) if "height" in size else None
    return (size, size) if size else None


def build_files(library: Library, architecture: Architecture, metadata: Metadata) -> dict[str, dict[str, Any]]:
    """Builds the JSON files that the library needs beside `model.safetensors`, by name.

    Args:
        library: the library.
        architecture: the model.
        metadata: the metadata of the weights.

    Raises:
        WeightsError: the library's MobileNet v1 cannot express the model.
    """
    if architecture.has_fixed_size:
        raise WeightsError(
            f"{library} has no MobileNet v1 with the head {architecture.head!r}, only with a single layer"
        )
    size = metadata.image_size or KERAS_SIZE
    padding = express_padding(library, architecture.padding, size, ("same", "symmetric"))
    if library == "timm":
        return {"config.json": _build_timm_config(architecture, metadata, size, _TIMM_PADDINGS[padding])}
    mean, std = compute_mean_std(metadata.input_scaling)
    processor = {
        # The processor of ViT, which resizes the whole image to a height and a width, as `image_reader` does.
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": size[0], "width": size[1]},
        "resample": 2,  # bilinear; when it reduces an image, the filter is as wide as the areas that are averaged here
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
        "do_center_crop": False,
    }
    return {
        "config.json": _build_transformers_config(architecture, metadata, size, padding == "same"),
        "preprocessor_config.json": processor,
    }


def _build_timm_config(
    architecture: Architecture, metadata: Metadata, size: tuple[int, int], pad_type: str
) -> dict[str, Any]:
    name = _TIMM_NAMES.get((architecture.alpha, architecture.conv_head))
    if name is None:
        raise WeightsError(
            f"timm has no MobileNet v1 of alpha {architecture.alpha}{' with conv_head' * architecture.conv_head}: it "
            "has 1.0 and 1.25, and 1.0 with conv_head"
        )
    epsilon, (mean, std) = architecture.batch_norm_epsilon, compute_mean_std(metadata.input_scaling)
    arguments = ({"pad_type": pad_type} if pad_type else {}) | ({"bn_eps": epsilon} if epsilon != _TIMM_EPSILON else {})
    pretrained = {
        "input_size": [3, *size],
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",  # resizes the whole image
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
        raise WeightsError("Transformers would add a classifier of random weights: this model has none")
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
