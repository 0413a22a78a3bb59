"""Prunes the channels of a trained network to a smaller alpha, so that training of a narrower network starts from it.

    python -m benchmarks.prune WORKDIR OUT.safetensors --alpha ALPHA [--data DATA]

writes a backbone without a head, for `--config.init.weights=OUT.safetensors`. WORKDIR is of a run with the head
`small`, and the latest checkpoint counts. Only training images of the run are read.

Each pointwise convolution, and the dense layer of the head, is linear in its inputs. Of these, one after another is
removed: the one whose removal changes the outputs least if the kernel is fitted again by least squares (Hassibi and
Stork 1993, section 2). The kernels are then fitted to the outputs of the unpruned network from the first block to the
last, each with the inputs that the pruned blocks before it compute (He et al. 2017, arXiv:1707.06168, section 3.1).
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import unflatten_dict

from mobilenet_jax.evaluation.trained_run import read_trained_run
from mobilenet_jax.export.images import read_calibration_images
from mobilenet_jax.export.network import Network
from mobilenet_jax.model.layers import PointwiseConv
from mobilenet_jax.model.mobilenet import BLOCKS, MobileNet
from mobilenet_jax.weights.save import save_pretrained

_IMAGES = 1024
_DAMPING = 0.001  # share of the mean variance of the inputs that is added to each, for those that never change
_LINEAR_LAYERS = [*(f"conv_pw_{index}" for index in range(1, len(BLOCKS) + 1)), "predictions"]


def main() -> None:
    """Reads the run, prunes its network and writes the backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--alpha", type=float, required=True)
    parser.add_argument("--data", help="folder of the images (default: that of the run)")
    args = parser.parse_args()
    run = read_trained_run(args.workdir, "latest")
    network = Network(run.weights)
    pixels = read_calibration_images(run, args.data, network, _IMAGES)
    model = MobileNet(alpha=args.alpha, head=None)
    channels = _choose_channels(network, pixels, args.alpha / run.weights.architecture.alpha)
    variables = _fit_kernels(network, pixels, model, channels)
    save_pretrained(args.out, model, variables, replace(run.weights.metadata, classes=None))


def _choose_channels(network: Network, pixels: np.ndarray, share: float) -> list[np.ndarray]:
    """Returns the channels to keep, a share of all: the outputs of `conv1`, then of each pointwise convolution."""
    wide, variables = network.weights.architecture.build_model(), network.weights.variables
    products = _sum_products(network, wide, variables, pixels, _LINEAR_LAYERS)
    channels = []
    for layer in _LINEAR_LAYERS:
        kernel = variables["params"][layer]["kernel"]
        inputs = kernel.shape[-2]
        covariance, *_ = _center(products[layer], inputs)
        channels.append(_remove_inputs(covariance, kernel.reshape(inputs, -1), round(inputs * share)))
    return channels


def _remove_inputs(covariance: np.ndarray, kernel: np.ndarray, count: int) -> np.ndarray:
    """Removes inputs of a linear layer until `count` of them remain; returns the indices of these.

    Args:
        covariance: of the inputs, `[inputs, inputs]`.
        kernel: `[inputs, outputs]`.
        count: the number of inputs to keep.
    """
    inverse, kept = np.linalg.inv(covariance), np.arange(len(covariance))
    while len(kept) > count:
        diagonal = np.diag(inverse)
        removed = int(((kernel**2).sum(1) / diagonal).argmin())
        shares = inverse[:, removed] / diagonal[removed]
        kernel = np.delete(kernel - np.outer(shares, kernel[removed]), removed, 0)
        inverse = np.delete(np.delete(inverse - np.outer(shares, inverse[removed]), removed, 0), removed, 1)
        kept = np.delete(kept, removed)
    return kept


def _take_channels(tensors: Mapping[str, np.ndarray], channels: list[np.ndarray]) -> dict[str, Any]:
    """Returns the variables of the backbone with some of its channels, see `_choose_channels`."""
    taken = {}
    for name, tensor in tensors.items():
        layer = name.split(".")[1].removesuffix("_bn")
        if layer in ("conv1", *_LINEAR_LAYERS[:-1]) or layer.startswith("conv_dw"):
            index = 0 if layer == "conv1" else int(layer.rpartition("_")[2])
            outputs = channels[index - 1 if layer.startswith("conv_dw") else index]
            is_pointwise = layer.startswith("conv_pw") and tensor.ndim == 4
            taken[name] = (tensor[:, :, channels[index - 1]] if is_pointwise else tensor)[..., outputs]
    return unflatten_dict(taken, sep=".")


def _fit_kernels(network: Network, pixels: np.ndarray, model: MobileNet, channels: list[np.ndarray]) -> dict[str, Any]:
    """Returns the variables of the pruned backbone.

    The pointwise kernels are fitted, and the means that batch normalization subtracts.

    Args:
        network: the unpruned network.
        pixels: uint8 `[n, height, width, 3]`.
        model: the pruned backbone.
        channels: see `_choose_channels`.
    """
    variables = _take_channels(network.weights.tensors, channels)
    for layer, outputs in zip(_LINEAR_LAYERS[:-1], channels[1:], strict=True):
        kernel = variables["params"][layer]["kernel"]
        products = _sum_products(network, model, variables, pixels, [layer])
        covariance, products_with_outputs, input_means, output_means = _center(products[layer], kernel.shape[-2])
        fitted = np.linalg.solve(covariance, products_with_outputs[:, outputs])
        variables["params"][layer]["kernel"] = fitted.reshape(kernel.shape).astype(np.float32)
        statistics = variables["batch_stats"][f"{layer}_bn"]
        shift = input_means @ fitted - output_means[outputs]
        statistics["mean"] = (statistics["mean"] + shift).astype(np.float32)
    return variables


def _sum_products(
    network: Network, model: MobileNet, variables: Mapping[str, Any], pixels: np.ndarray, layers: list[str]
) -> dict[str, np.ndarray]:
    """Sums the outer products of (inputs, 1, outputs) of linear layers over images and positions, by layer.

    Args:
        network: the network whose outputs count.
        model: the network whose inputs count.
        variables: of `model`.
        pixels: uint8 `[n, height, width, 3]`.
        layers: the names of the layers.
    """
    wide = network.weights.architecture.build_model()

    def compute(images: jax.Array) -> dict[str, jax.Array]:
        images = network.to_input_range(images)
        inputs = {layer: x for layer, (x, _) in _trace(model, variables, images).items()}
        outputs = {layer: y for layer, (_, y) in _trace(wide, network.weights.variables, images).items()}
        return {layer: _multiply(inputs[layer], outputs[layer]) for layer in layers}

    return network.sum_by_layer(compute, pixels)


def _multiply(x: jax.Array, y: jax.Array) -> jax.Array:
    values = jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1)), y], -1)
    values = values.reshape(-1, values.shape[-1])
    return values.T @ values


def _trace(model: MobileNet, variables: Mapping[str, Any], images: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns the inputs and outputs of the linear layers."""
    values = {}

    def record(next_method, args, kwargs, context):  # type: ignore[no-untyped-def]
        y = next_method(*args, **kwargs)
        if isinstance(context.module, PointwiseConv | nn.Dense):
            values[str(context.module.name)] = args[0], y
        return y

    with nn.intercept_methods(record):
        model.apply(variables, images, train=False)
    return values


def _center(products: np.ndarray, inputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the covariance of the inputs, that with the outputs, and the means of both, from their products."""
    products = products / products[inputs, inputs]
    means = products[inputs]
    centered = products - np.outer(means, means)
    covariance = centered[:inputs, :inputs]
    damped = covariance + _DAMPING * np.diag(covariance).mean() * np.eye(inputs)
    return damped, centered[:inputs, inputs + 1 :], means[:inputs], means[inputs + 1 :]


if __name__ == "__main__":
    main()
