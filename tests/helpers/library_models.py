"""timm's and Transformers' MobileNet v1 with random weights that are the same everywhere."""

import importlib
import zlib

import numpy as np
import pytest

from mobilenet_jax.weights.layout import Architecture, from_flax_shape
from mobilenet_jax.weights.pytorch.names import map_to_library

CLASSES = 7
# The models of the stored outputs, by name: the library, and the architecture that its defaults and options make.
MODELS = {
    "mobilenetv1_100": ("timm", Architecture(1.0, "small", CLASSES, 1, False, 1e-5, "symmetric")),
    "mobilenetv1_100h": ("timm", Architecture(1.0, "small", CLASSES, 1, True, 1e-5, "symmetric")),
    "mobilenetv1_125": ("timm", Architecture(1.25, "small", CLASSES, 1, False, 1e-5, "symmetric")),
    "mobilenet_v1_0.25": ("transformers", Architecture(0.25, "small", CLASSES, 1, False, 1e-3, "same")),
    "mobilenet_v1_0.75_symmetric": ("transformers", Architecture(0.75, "small", CLASSES, 1, False, 1e-3, "symmetric")),
    "mobilenet_v1_1.0": ("transformers", Architecture(1.0, "small", CLASSES, 1, False, 1e-3, "same")),
}


def make_library_tensors(name):
    """Returns the tensors of a model by the library's names, without those that count batches."""
    library, architecture = MODELS[name]
    names = map_to_library(library)
    shapes = {ours: from_flax_shape(ours, shape, "pytorch") for ours, shape in architecture.compute_shapes().items()}
    return {names[ours]: _sample(names[ours], shape) for ours, shape in shapes.items()}


def _sample(name, shape):
    """Samples values that keep the activations of a deep network between 0 and 6, and different from each other."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        value = rng.uniform(0.3, 1.2, shape)
    elif len(shape) > 1:
        value = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
    else:
        value = rng.normal(1.0 if name.endswith("weight") else 0.3, 0.1, shape)
    return value.astype(np.float32)


def build_library_model(name):
    """Builds the model in PyTorch, in evaluation mode, with the tensors of `make_library_tensors`. Skips without it."""
    torch = import_torch()
    library, architecture = MODELS[name]
    if library == "timm":
        model = pytest.importorskip("timm").create_model(name, num_classes=CLASSES)
    else:
        transformers = pytest.importorskip("transformers")
        config = transformers.MobileNetV1Config(
            depth_multiplier=architecture.alpha, tf_padding=architecture.padding == "same", num_labels=CLASSES
        )
        model = transformers.MobileNetV1ForImageClassification(config)
    tensors = {key: torch.from_numpy(value) for key, value in make_library_tensors(name).items()}
    result = model.load_state_dict(tensors, strict=False)
    assert result.unexpected_keys == []
    assert all(key.endswith("num_batches_tracked") for key in result.missing_keys)
    return model.eval()


def import_torch():
    """Imports PyTorch, in a form that timm can be imported after; skips the test where it is missing.

    timm imports torchvision. PyPI's torchvision declares its operators in a library that needs CUDA, so that its import
    fails beside a PyTorch for CPUs. None of these operators is used here: their declarations are enough.
    """
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[torch]'")
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        declarations = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            declarations.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torch.declarations = declarations  # they end with the object
    return torch


def compute_library_outputs(name, model, images):
    """Returns the outputs of the stem, of block 6, of all blocks, and the logits, in float32 and Flax's layout."""
    torch = import_torch()
    if MODELS[name][0] == "timm":
        layers = [model.bn1, model.blocks[3][0], model.bn2 if MODELS[name][1].conv_head else model.blocks[4][1]]
    else:
        layers = [model.mobilenet_v1.conv_stem, model.mobilenet_v1.layer[11], model.mobilenet_v1.layer[25]]
    outputs = []
    hooks = [layer.register_forward_hook(lambda _, __, output: outputs.append(output)) for layer in layers]
    with torch.no_grad():
        result = model(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    for hook in hooks:
        hook.remove()
    return [output.numpy().transpose(0, 2, 3, 1) for output in outputs] + [getattr(result, "logits", result).numpy()]
