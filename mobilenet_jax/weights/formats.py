"""The formats that weights are written in."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.weights.keras.files import SUFFIX as KERAS_SUFFIX
from mobilenet_jax.weights.keras.names import map_to_keras_3
from mobilenet_jax.weights.layout import KERAS_SIZE, Architecture, Layout, express_padding
from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.pytorch.configs import build_files
from mobilenet_jax.weights.pytorch.names import Library, map_to_library

Format = Literal["safetensors", "keras", "orbax", Library]
_LAYOUTS: dict[Format, Layout] = {"keras": "keras", "timm": "pytorch", "transformers": "pytorch"}


def choose_format(path: Path, library: Library | None = None) -> Format:
    """Returns the format of a file or folder to write, which its name determines.

    Args:
        path: the file or folder.
        library: the library that a folder is written for; None for the project's own formats and Keras.

    Raises:
        WeightsError: the name has no known suffix.
    """
    if library:
        if path.suffix:
            raise WeightsError(f"{path}: {library} reads a folder, so its name has no suffix")
        return library
    if path.name.endswith(".safetensors"):
        return "safetensors"
    if path.name.endswith(KERAS_SUFFIX):
        return "keras"
    if not path.suffix:
        return "orbax"
    raise WeightsError(
        f"{path}: the name determines the format: NAME.safetensors, NAME.weights.h5 (Keras 3), or NAME without a "
        "suffix (Orbax folder)"
    )


def check_expressible(architecture: Architecture, metadata: Metadata, target: Format) -> None:
    """Checks that a model can be written in a format.

    Raises:
        WeightsError: the library that reads the format would compute something else.
    """
    if target in ("timm", "transformers"):
        build_files(target, architecture, metadata)
    if target == "keras":
        size = metadata.image_size or KERAS_SIZE
        express_padding("Keras", architecture.padding, size, ("keras",))
        if architecture.conv_head:
            raise WeightsError("Keras's MobileNet has no layer conv_head")
        if architecture.batch_norm_epsilon != MobileNet.batch_norm_epsilon:
            raise WeightsError(
                f"Keras's MobileNet has the epsilon {MobileNet.batch_norm_epsilon} of batch normalization, not "
                f"{architecture.batch_norm_epsilon}"
            )


def get_layout(target: Format) -> Layout:
    """Returns the layout of the tensors in a format."""
    return _LAYOUTS.get(target, "flax")


def map_names(names: Iterable[str], target: Format) -> dict[str, str]:
    """Maps the names of `layout.py` to those in a format."""
    if target == "keras":
        return map_to_keras_3(names)
    if target in ("timm", "transformers"):
        theirs = map_to_library(target)
        return {name: theirs[name] for name in names}
    return {name: name for name in names}
