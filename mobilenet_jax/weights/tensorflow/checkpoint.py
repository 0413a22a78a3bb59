"""Reads the checkpoints of TensorFlow's slim library: `PREFIX.index` and `PREFIX.data-00000-of-00001`.

Source of the names: `research/slim/nets/mobilenet_v1.py` in tensorflow/models.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import BLOCKS
from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.weights_file import FileTensor, WeightsFile
from mobilenet_jax.weights.worker import open_in_worker

INDEX_SUFFIX, _DATA_SUFFIX = ".index", ".data-00000-of-00001"

_PUBLIC_NAME = re.compile(r"mobilenet_v1_[\d.]+_(\d{2,4})\.ckpt")  # of Google's checkpoints
_WORKER = Path(__file__).with_name("checkpoint_worker.py")
_NORM_TENSORS = {
    "params.{}_bn.scale": "gamma",
    "params.{}_bn.bias": "beta",
    "batch_stats.{}_bn.mean": "moving_mean",
    "batch_stats.{}_bn.var": "moving_variance",
}
# The step, the variables of the optimizer, and averages, which Transformers does not read either.
_NOT_WEIGHTS = re.compile(
    r"global_step|beta[12]_power|.*/(RMSProp|Momentum|Adam|Adadelta|Adagrad|Ftrl)(_\d)?|.*/ExponentialMovingAverage"
)


@contextlib.contextmanager
def open_checkpoint(prefix: Path) -> Iterator[WeightsFile]:
    """Opens a checkpoint. TensorFlow reads it in another process, without running a graph.

    Args:
        prefix: the path of its files without the suffixes.

    Raises:
        WeightsError: it is damaged, or its data are not in a single file.
    """
    index, data = (prefix.with_name(prefix.name + suffix) for suffix in (INDEX_SUFFIX, _DATA_SUFFIX))
    for part in (index, data):
        if not part.is_file():
            raise WeightsError(f"{part.name} of the TensorFlow checkpoint is missing")
    names = {theirs: ours for ours, theirs in map_to_slim().items()}
    with open_in_worker(_WORKER, prefix) as file:
        tensors = {}
        for path, dataset in file.datasets.items():
            if not _NOT_WEIGHTS.fullmatch(path):
                shape, name = tuple(dataset["shape"]), names.get(path, path)
                read = functools.partial(file.read, path, shape)
                tensors[name] = FileTensor(path, shape, dataset["dtype"], read)
        public = _PUBLIC_NAME.fullmatch(prefix.name)
        metadata = Metadata((int(public[1]), int(public[1]))) if public else Metadata()
        yield WeightsFile("TensorFlow checkpoint", data, tensors, "keras", metadata, variant={"padding": "same"})


def map_to_slim() -> dict[str, str]:
    """Maps the names of `layout.py` to those of slim."""
    layers = {"conv1": ("Conv2d_0", "weights")}
    for i in range(1, len(BLOCKS) + 1):
        layers[f"conv_dw_{i}"] = (f"Conv2d_{i}_depthwise", "depthwise_weights")
        layers[f"conv_pw_{i}"] = (f"Conv2d_{i}_pointwise", "weights")
    names = {}
    for layer, (scope, kernel) in layers.items():
        names[f"params.{layer}.kernel"] = f"MobilenetV1/{scope}/{kernel}"
        names |= {
            ours.format(layer): f"MobilenetV1/{scope}/BatchNorm/{theirs}" for ours, theirs in _NORM_TENSORS.items()
        }
    logits = "MobilenetV1/Logits/Conv2d_1c_1x1"
    return names | {"params.conv_preds.kernel": f"{logits}/weights", "params.conv_preds.bias": f"{logits}/biases"}
