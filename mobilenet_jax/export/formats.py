"""The formats by the suffixes of their file names."""

import os
from importlib import import_module
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

from mobilenet_jax.errors import ExportError

Quantization = Literal["none", "float16", "int8"]


class Format(NamedTuple):
    """A format of exported networks.

    Attributes:
        name: for display.
        module: the name of its module in this package, which has the functions `write(network, path)`,
            `load(path, threads)` and `count_operations(path)`. They import the packages of the format when they run.
        packages: the modules of the packages that it needs, beyond those that are always installed.
        runtime: the module whose runtime executes it.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    runtime: str

    def load_module(self) -> ModuleType:
        """Imports the module of the format.

        TensorFlow and LiteRT's converter log a notice about oneDNN, which neither uses here, unless it is turned off.
        """
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        return import_module(f"{__package__}.{self.module}")

    def describe_runtime(self) -> str:
        """Returns the distribution and the version of the runtime, such as `onnxruntime 1.23.0`.

        If several distributions provide it, such as onnxruntime-gpu, all of them are named.
        """
        distributions = sorted(set(packages_distributions()[self.runtime]))
        return ", ".join(f"{distribution} {version(distribution)}" for distribution in distributions)


FORMATS = {
    ".tflite": Format("LiteRT", "litert", ("litert_converter", "litert_quantizer", "ai_edge_litert"), "ai_edge_litert"),
    ".onnx": Format("ONNX", "onnx_graph", ("onnx", "onnxruntime"), "onnxruntime"),
    ".mlir": Format("StableHLO", "stablehlo", (), "jax"),
    "": Format("TensorFlow SavedModel", "saved_model", ("tensorflow",), "tensorflow"),
}


def get_format(path: Path) -> Format:
    """Returns the format that the suffix of a name stands for.

    Raises:
        ExportError: the suffix is unknown, or a package that the format needs is not installed.
    """
    if path.suffix not in FORMATS or path.name in FORMATS:  # `.tflite` is a name without a suffix
        raise ExportError(
            f"{path}: the name determines the format: NAME.tflite (LiteRT), NAME.onnx, NAME.mlir (StableHLO), or NAME "
            "without a suffix (folder of a TensorFlow SavedModel)"
        )
    chosen = FORMATS[path.suffix]
    missing = [package for package in chosen.packages if not find_spec(package)]
    if missing:
        raise ExportError(
            f"{chosen.name} needs {', '.join(missing)}, not installed here: run pip install -e '.[export]' in the "
            "repository"
        )
    return chosen
