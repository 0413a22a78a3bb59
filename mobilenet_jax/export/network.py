"""A network to export: one image in, probabilities, logits or features out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from input_pipeline.preprocessing import InputScaling, Preprocessing
from mobilenet_jax.inference.classifier import get_image_size
from mobilenet_jax.model.folding import fold_batch_norm
from mobilenet_jax.model.layers import Bias
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.model.preprocessing import remove_color_cast, scale_pixels
from mobilenet_jax.weights.weights import Weights

Output = Literal["probabilities", "logits", "features"]
Params = dict[str, dict[str, Any]]  # of the folded network, by layer; each convolution has a bias of its own
ACTIVATION_LEVELS = 255  # of an 8-bit result of ReLU6, above 0
_IMAGES_PER_BATCH = 32
_IMAGES_PER_SUM = 8  # the activations of all layers are in memory at once


@dataclass(frozen=True)
class Network:
    """A network to export. Every format computes the same function of a single image.

    Attributes:
        weights: the weights and their metadata.
        raw: whether the input is float32 in the input range of the network, and the output logits. Otherwise the input
            is uint8, and the output probabilities; the color cast of the light is removed in the network, if it was in
            training. A network without a classifier returns features in both cases.
        plain: whether each convolution is one operation of XLA, as converters expect; see `MobileNet`.
        params: parameters of the folded network in place of those that follow from the weights.

    Raises:
        WeightsError: the weights have a classifier with one output, of which there are no probabilities.
    """

    weights: Weights
    raw: bool = False
    plain: bool = False
    params: Params | None = None

    def __post_init__(self) -> None:
        if not self.raw:
            self.weights.check_outputs()

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the input image in pixels."""
        return get_image_size(self.weights)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """The shape of the input, `(1, height, width, 3)`."""
        return (1, *self.image_size, 3)

    @property
    def input_type(self) -> type[np.generic]:
        """The type of the input."""
        return np.float32 if self.raw else np.uint8

    @property
    def output(self) -> Output:
        """The kind of the output. It is the name of the output in the file, too; that of the input is `image`."""
        if self.weights.architecture.head is None:
            return "features"
        return "logits" if self.raw else "probabilities"

    @property
    def input_scaling(self) -> InputScaling:
        """The range that pixel values 0 and 255 are mapped to."""
        return self.weights.metadata.input_scaling

    @property
    def preprocessing(self) -> Preprocessing:
        """The steps from a decoded image to the pixels, which applications apply."""
        recorded = self.weights.metadata.preprocessing
        return recorded if self.raw else recorded._replace(color_constancy="none")

    @property
    def removes_color_cast(self) -> bool:
        """Whether the network itself removes the color cast of the light."""
        return self.preprocessing != self.weights.metadata.preprocessing

    def to_input_range(self, pixels: jax.Array) -> jax.Array:
        """Maps pixels to the input range of the network, after removing their color cast if the network does so.

        Args:
            pixels: uint8 `[n, height, width, 3]`, after the steps of `preprocessing`.

        Returns:
            float32, the same shape.
        """
        return scale_pixels(remove_color_cast(pixels) if self.removes_color_cast else pixels, self.input_scaling)

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """Converts pixels to the input of the exported network.

        Args:
            pixels: see `to_input_range`.

        Returns:
            The same shape, of type `input_type`.
        """
        return np.asarray(self.to_input_range(jnp.asarray(pixels))) if self.raw else pixels

    def apply(self, image: jax.Array) -> jax.Array:
        """Computes the output for the input; this function of JAX is exported. Batch normalization is folded."""
        model, variables = self.fold()
        return self.compute_output(model, variables, image if self.raw else self.to_input_range(image))

    def fold(self) -> tuple[MobileNet, dict[str, Any]]:
        """Returns the model without batch normalization, and its variables."""
        model = self.weights.architecture.build_model().clone(plain_convolutions=self.plain)
        folded, variables = fold_batch_norm(model, self.weights.variables)
        return folded, variables if self.params is None else {"params": self.params}

    def capture_activations(
        self, params: Params, pixels: jax.Array, *, round_inputs: bool = False
    ) -> dict[str, jax.Array]:
        """Computes the outputs of the convolutions, before ReLU6.

        Args:
            params: parameters of the folded network.
            pixels: see `to_input_range`.
            round_inputs: whether each convolution reads the result of the layer before in 8 bits.

        Returns:
            `[n, height, width, channels]` by the names of the layers.
        """
        model, _ = self.fold()
        activations = {}

        def record(next_method, args, kwargs, context):  # type: ignore[no-untyped-def]
            x = next_method(*args, **kwargs)
            name = str(context.module.name)
            if isinstance(context.module, Bias) and name.startswith("conv"):
                activations[name.removesuffix("_bn")] = x
                return round_activation(x, 6 / ACTIVATION_LEVELS) if round_inputs else x
            return x

        with nn.intercept_methods(record):
            model.apply({"params": params}, self.to_input_range(pixels), train=False)
        return activations

    def sum_by_layer(
        self, compute: Callable[[jax.Array], dict[str, jax.Array]], pixels: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Sums the arrays that a function computes for each layer, over batches of a few images.

        Args:
            compute: maps pixels, see `to_input_range`, to arrays by the names of layers; it is compiled.
            pixels: see `to_input_range`.

        Returns:
            float64 sums by the names of the layers, in the order of the network.
        """
        compiled = jax.jit(compute)
        batches = (pixels[i : i + _IMAGES_PER_SUM] for i in range(0, len(pixels), _IMAGES_PER_SUM))
        parts = [jax.device_get(compiled(jnp.asarray(batch))) for batch in batches]
        layers = [layer for layer in self.fold()[1]["params"] if layer in parts[0]]  # JAX sorts the keys
        return {layer: np.array([part[layer] for part in parts], np.float64).sum(0) for layer in layers}

    def compute_output(self, model: MobileNet, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
        """Computes the output for images in the input range of the network, with any form of the model."""
        outputs: Any = model.apply(variables, images, train=False)
        return jax.nn.softmax(outputs) if self.output == "probabilities" else outputs

    def compute_reference(self, pixels: np.ndarray) -> np.ndarray:
        """Computes the outputs as in evaluation, without folding: the values that exported files are compared with.

        Args:
            pixels: see `to_input_range`.

        Returns:
            float32 `[n, ...]`.
        """
        model, variables = self.weights.architecture.build_model(), self.weights.variables

        @jax.jit
        def classify(pixels: jax.Array) -> jax.Array:
            return self.compute_output(model, variables, self.to_input_range(pixels))

        batches = [pixels[i : i + _IMAGES_PER_BATCH] for i in range(0, len(pixels), _IMAGES_PER_BATCH)]
        with jax.default_matmul_precision("highest"):  # GPUs and TPUs round float32 more coarsely by default
            return np.concatenate([np.asarray(classify(batch)) for batch in batches])


def round_activation(x: jax.Array, step: jax.Array | float) -> jax.Array:
    """Rounds values of any shape to the nearest of 0, step, ..., 255 step; larger values are clipped."""
    return jnp.clip(jnp.round(x / step), 0, ACTIVATION_LEVELS) * step
