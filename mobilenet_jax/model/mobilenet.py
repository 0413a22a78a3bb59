"""MobileNet v1 (Howard et al. 2017, arXiv:1704.04861) in Flax, with the layer names and the numbers of Keras.

The names are the conversion contract: `conv_dw_1`, `conv_pw_1_bn` and so on are the same in this file, in Keras's
`applications/mobilenet.py` and in the files of weights. Layers without parameters have a name too, so that the layer
table and the features at any depth can be read off a call of the model.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mobilenet_jax.kernels.depthwise import Method, Padding, depthwise_conv

ALPHAS = (0.25, 0.5, 0.75, 1.0)
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 32, 2048

# (output channels at alpha 1, stride) of the thirteen depthwise-separable blocks; table 1 of the paper.
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip

Head = Literal["article", "article_bn", "small", "imagenet"]
TRAINABLE_HEADS: tuple[Head, ...] = ("article", "article_bn", "small")  # those that a configuration can choose
FrozenBatchNorm = Literal["frozen", "train"]

_glorot = nn.initializers.glorot_uniform()  # the initializer of Keras's convolutions and dense layers


class ZeroPadding(nn.Module):
    """Adds rows and columns of zeros: `padding` is `((top, bottom), (left, right))`."""

    padding: Padding

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, channels]` to the same with the padding added."""
        return jnp.pad(x, ((0, 0), *self.padding, (0, 0)))


class ReLU6(nn.Module):
    """min(max(x, 0), 6)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Any shape to the same shape."""
        return nn.relu6(x)


class DepthwiseConv(nn.Module):
    """One 3x3 filter a channel. Kernel `[3, 3, 1, channels]` (Keras stores `[3, 3, channels, 1]`)."""

    stride: int
    padding: Padding
    method: Method = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, channels]` to the size that stride and padding give."""
        kernel = self.param("kernel", _glorot, (3, 3, 1, x.shape[-1]))
        return depthwise_conv(x, kernel.astype(x.dtype), self.stride, self.padding, self.method)


class PointwiseConv(nn.Module):
    """A 1x1 convolution without bias: one matrix product over the channels, which every backend does fast."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, channels]` to `[batch, height, width, features]`."""
        kernel = self.param("kernel", _glorot, (1, 1, x.shape[-1], self.features))
        return jnp.einsum("nhwc,cf->nhwf", x, kernel[0, 0].astype(x.dtype))


class MobileNet(nn.Module):
    """MobileNet v1: a stem, thirteen depthwise-separable blocks and a classifier head.

    Attributes:
        alpha: the width multiplier; every number of channels is `int(channels * alpha)`.
        head: `"article"` (flatten, dense 1024, dropout, dense 1024, dropout, dense), `"article_bn"` (with batch
            normalization before the ReLU of each dense 1024), `"small"` (global average pooling, dropout, dense),
            `"imagenet"` (Keras's own top: global average pooling, dropout, 1x1 convolution), or None for the features.
        num_classes: the size of the last layer.
        dropout: the share of units the head drops while training.
        depthwise: the form of the depthwise convolution, see `depthwise_conv`.
        frozen_blocks: the stem and so many of the first blocks are not trained: no gradient reaches them. 0 trains
            all, 13 only the head.
        batch_norm: of frozen blocks. `"frozen"` uses the moving statistics and keeps them, as Keras does since
            TensorFlow 2; `"train"` normalizes by the batch and goes on estimating, as Keras did in 2018.
        dtype: in which to compute: float32; bfloat16, with parameters, statistics and logits still float32; or
            float64, to tell rounding from errors.
    """

    alpha: float = 1.0
    head: Head | None = "article"
    num_classes: int = 7
    dropout: float = 0.5
    depthwise: Method = "auto"
    frozen_blocks: int = 0
    batch_norm: FrozenBatchNorm = "frozen"
    dtype: DTypeLike = jnp.float32

    @property
    def frozen_layers(self) -> set[str]:
        """The names of the layers that are not trained, of those that have parameters."""
        if not self.frozen_blocks:
            return set()
        convs = {"conv1", *(f"conv_{kind}_{i + 1}" for i in range(self.frozen_blocks) for kind in ("dw", "pw"))}
        return convs | {f"{layer}_bn" for layer in convs}

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Classifies images.

        Args:
            images: float32 `[batch, height, width, 3]`, height and width from 32 up, scaled as the weights expect
                (see README).
            train: whether batch normalization uses and updates the batch's statistics (collection `batch_stats`)
                and dropout drops (needs the random stream `dropout`). The outputs of the dense 1024 layers, which
                an activity regularizer looks at, are sown into the collection `activities`.

        Returns:
            Logits `[batch, num_classes]`; without a head, features `[batch, height / 32, width / 32, 1024 alpha]`,
            the sizes rounded as five strided layers round them.

        Raises:
            ValueError: alpha, the head or the images' shape is not one of those above.
        """
        if self.alpha not in ALPHAS:
            raise ValueError(f"alpha is one of {ALPHAS}, not {self.alpha}")
        if images.ndim != 4 or images.shape[3] != 3 or min(images.shape[1:3]) < MIN_IMAGE_SIZE:
            raise ValueError(f"images are [batch, height >= 32, width >= 32, 3], not {list(images.shape)}")

        frozen = self.frozen_layers

        def norm_relu6(x: jax.Array, name: str) -> jax.Array:
            use_moving = not train or (self.batch_norm == "frozen" and f"{name}_bn" in frozen)
            return ReLU6(name=f"{name}_relu")(self._norm(x, name, use_moving))

        x = ZeroPadding(_same_padding(images.shape[1:3]), name="conv1_pad")(images.astype(self.dtype))
        conv1 = nn.Conv(
            int(32 * self.alpha), (3, 3), 2, padding="VALID", use_bias=False, dtype=self.dtype, kernel_init=_glorot,
            name="conv1",
        )  # fmt: skip
        x = norm_relu6(conv1(x), "conv1")
        for block, (channels, stride) in enumerate(BLOCKS, start=1):
            # Keras pads a strided depthwise layer below and to the right only, at even and at odd sizes.
            padding: Padding = ((1, 1), (1, 1))
            if stride == 2:
                x = ZeroPadding(((0, 1), (0, 1)), name=f"conv_pad_{block}")(x)
                padding = ((0, 0), (0, 0))
            x = DepthwiseConv(stride, padding, self.depthwise, name=f"conv_dw_{block}")(x)
            x = norm_relu6(x, f"conv_dw_{block}")
            x = PointwiseConv(int(channels * self.alpha), name=f"conv_pw_{block}")(x)
            x = norm_relu6(x, f"conv_pw_{block}")
            if block == self.frozen_blocks:
                x = jax.lax.stop_gradient(x)
        if not self.is_initializing():  # or the variables of a new model would hold it
            x = self.perturb("features", x)  # adds zeros if they are given, by which Grad-CAM takes a gradient
        x = x if self.head is None else self._classify(x, train)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def _norm(self, x: jax.Array, name: str, use_moving: bool) -> jax.Array:
        return nn.BatchNorm(use_moving, momentum=0.99, epsilon=1e-3, dtype=self.dtype, name=f"{name}_bn")(x)

    def _show(self, layer: str, x: jax.Array) -> None:
        if not self.is_initializing():  # or the variables of a new model would hold it
            self.sow("activities", f"{layer}_output", x)

    def _classify(self, x: jax.Array, train: bool) -> jax.Array:
        def dense(features: int, name: str) -> Callable[[jax.Array], jax.Array]:
            return nn.Dense(features, dtype=self.dtype, kernel_init=_glorot, name=name)

        if self.head in ("article", "article_bn"):
            x = x.reshape(x.shape[0], -1)
            for i in (1, 2):
                x = dense(1024, f"dense_{i}")(x)
                # Where Keras's regularizer looks: with batch normalization before it and the activation, else after.
                if self.head == "article_bn":
                    self._show(f"dense_{i}", x)
                    x = nn.relu(self._norm(x, f"dense_{i}", not train))
                else:
                    x = nn.relu(x)
                    self._show(f"dense_{i}", x)
                x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout_{i}")(x)
            return dense(self.num_classes, "predictions")(x)
        x = x.mean((1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if self.head == "small":
            return dense(self.num_classes, "predictions")(x)
        if self.head == "imagenet":
            conv = nn.Conv(self.num_classes, (1, 1), dtype=self.dtype, kernel_init=_glorot, name="conv_preds")
            x = conv(x[:, None, None, :])
            return x[:, 0, 0, :]
        raise ValueError(f"head is 'article', 'article_bn', 'small', 'imagenet' or None, not {self.head!r}")


def _same_padding(size: tuple[int, ...]) -> Padding:
    """TensorFlow's SAME for a 3x3 kernel at stride 2: (0, 1) at even sizes, as in the article's table, else (1, 1)."""
    rows, columns = ((1, 1) if n % 2 else (0, 1) for n in size)
    return rows, columns
