"""Folds batch normalization into the convolutions before it, for inference."""

from collections.abc import Mapping
from typing import Any

from mobilenet_jax.model.mobilenet import MobileNet


def fold_batch_norm(model: MobileNet, variables: Mapping[str, Any]) -> tuple[MobileNet, dict[str, Any]]:
    """Returns a model without batch normalization that computes the same, and its variables.

    With the moving statistics, batch normalization is s y + (b - s m), where s = scale / sqrt(variance + epsilon), m is
    the mean and b the bias. As y is linear in the kernel of the layer before, s moves into that kernel, whose last axis
    is that of the channels. The rest is a bias.

    Args:
        model: the model.
        variables: `{"params", "batch_stats"}`, NumPy or JAX arrays. Outside of `jax.jit`, NumPy arrays are faster.

    Returns:
        The model with `folded=True`, and `{"params"}`. It cannot be trained.
    """
    params = {layer: dict(tensors) for layer, tensors in variables["params"].items()}
    for layer, statistics in variables["batch_stats"].items():
        norm, before = params[layer], params[layer.removesuffix("_bn")]
        factor = norm["scale"] * (statistics["var"] + model.batch_norm_epsilon) ** -0.5
        before["kernel"] = before["kernel"] * factor[(None,) * (before["kernel"].ndim - 1)]
        if "bias" in before:  # only dense layers have one
            before["bias"] = before["bias"] * factor
        params[layer] = {"bias": norm["bias"] - statistics["mean"] * factor}
    return model.clone(folded=True), {"params": params}
