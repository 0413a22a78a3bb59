"""StableHLO files (`.mlir`), as serialized by `jax.export`."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mobilenet_jax.export.network import Network

PLATFORMS = ("cpu", "cuda", "tpu")
_OPERATION = re.compile(r'stablehlo\.(\w+)"?[ (]')


def write(network: "Network", path: Path) -> None:
    """Writes a network for all `PLATFORMS`."""
    import jax
    from jax import export

    image = jax.ShapeDtypeStruct(network.input_shape, network.input_type)
    exported = export.export(jax.jit(network.apply), platforms=PLATFORMS)(image)
    path.write_bytes(exported.serialize())


def load(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs the file on one input.

    Args:
        path: the file.
        threads: unused: XLA takes as many as the process has cores.
    """
    import jax
    from jax import export

    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda image: np.asarray(call(image))


def count_operations(path: Path) -> Counter[str]:
    """Counts the operations by name."""
    from jax import export

    module = export.deserialize(bytearray(path.read_bytes())).mlir_module()
    return Counter(_OPERATION.findall(module))
