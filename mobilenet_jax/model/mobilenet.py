"""MobileNet v1 (Howard et al. 2017, arXiv:1704.04861) in Flax, with the layer names and the numbers of Keras.

The layer names are the conversion contract: `conv_dw_1`, `conv_pw_1_bn` and so on are the same in this file, in Keras's
`applications/mobilenet.py` and in weight files. Blocks and heads are modules that share the scope of `MobileNet`
(`nn.share_scope`), so `params` and `batch_stats` have a single level of layer names.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mobilenet_jax.kernels.depthwise import Padding
from mobilenet_jax.model.layers import (
    BatchNorm,
    Bias,
    Conv,
    Dense,
    DepthwiseConv,
    PointwiseConv,
    ReLU6,
    StemConv,
    ZeroPadding,
)

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 32, 2048

# (output channels at alpha 1, stride) of the thirteen depthwise-separable blocks: table 1 of the paper.
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip

Head = Literal["article", "article_bn", "small", "imagenet"]
TRAINABLE_HEADS: tuple[Head, ...] = ("article", "article_bn", "small")  # the choices of a configuration
FrozenBatchNorm = Literal["frozen", "train"]
StridedPadding = Literal["keras", "same", "symmetric"]
Size = tuple[int, int]  # height and width in pixels


class DepthwiseSeparableBlock(nn.Module):
    """A 3x3 depthwise and a 1x1 pointwise convolution, each followed by batch normalization and ReLU6.

    The block is figure 3 (right) of the paper, with ReLU6 for ReLU, and Keras's `_depthwise_conv_block`. The two
    convolutions take `1 / features + 1 / 9` of the operations of one 3x3 convolution (equation 5).
    """

    index: int  # its number in the layer names, from 1
    features: int  # output channels
    stride: int  # the stride of the depthwise convolution, 1 or 2
    padding: Padding  # the padding of the depthwise convolution
    norm: Callable[..., nn.Module]
    plain_convolutions: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to `features` channels and the size that stride and padding give."""
        padding = self.padding
        if self.stride == 2:  # a layer of its own, as in Keras
            x = ZeroPadding(padding, name=f"conv_pad_{self.index}")(x)
            padding = ((0, 0), (0, 0))
        x = DepthwiseConv(self.stride, padding, self.plain_convolutions, name=f"conv_dw_{self.index}")(x)
        x = self.norm(name=f"conv_dw_{self.index}_bn")(x)
        x = ReLU6(name=f"conv_dw_{self.index}_relu")(x)
        x = PointwiseConv(self.features, self.plain_convolutions, name=f"conv_pw_{self.index}")(x)
        x = self.norm(name=f"conv_pw_{self.index}_bn")(x)
        return ReLU6(name=f"conv_pw_{self.index}_relu")(x)


class ArticleHead(nn.Module):
    """The head of the 2018 article: flatten, twice (dense 1024, ReLU, dropout), dense.

    With `norm`, batch normalization precedes each ReLU. The outputs of the dense 1024 layers, to which activity
    regularizers apply, are sown into the collection `activities` as `dense_1_output` and `dense_2_output`.
    """

    num_classes: int
    dropout: float
    dtype: DTypeLike
    norm: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[batch, height, width, channels]` to logits `[batch, num_classes]`."""
        x = features.reshape(features.shape[0], -1)
        for i in (1, 2):
            x = Dense(1024, dtype=self.dtype, name=f"dense_{i}")(x)
            if self.norm:
                self._sow_output(f"dense_{i}", x)
                x = nn.relu(self.norm(name=f"dense_{i}_bn")(x))
            else:  # this ReLU is part of Keras's dense layer, so its output is the output of the layer
                x = nn.relu(x)
                self._sow_output(f"dense_{i}", x)
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout_{i}")(x)
        return Dense(self.num_classes, dtype=self.dtype, name="predictions")(x)

    def _sow_output(self, layer: str, x: jax.Array) -> None:
        if not self.is_initializing():  # keeps the collection out of the variables of a new model
            self.sow("activities", f"{layer}_output", x)


class SmallHead(nn.Module):
    """Global average pooling, dropout, dense: a few thousand parameters, for mobile devices."""

    num_classes: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[batch, height, width, channels]` to logits `[batch, num_classes]`."""
        x = features.mean((1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        return Dense(self.num_classes, dtype=self.dtype, name="predictions")(x)


class ImageNetHead(nn.Module):
    """The top of Keras's MobileNet: global average pooling, dropout, 1x1 convolution with bias."""

    num_classes: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[batch, height, width, channels]` to logits `[batch, num_classes]`."""
        x = features.mean((1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        x = Conv(self.num_classes, (1, 1), dtype=self.dtype, name="conv_preds")(x[:, None, None, :])
        return x[:, 0, 0, :]


_HEADS: dict[Head, Callable[..., nn.Module]] = {
    "article": ArticleHead,
    "article_bn": ArticleHead,  # with batch normalization, which `MobileNet` passes to it
    "small": SmallHead,
    "imagenet": ImageNetHead,
}


class MobileNet(nn.Module):
    """MobileNet v1: a 3x3 convolution, thirteen depthwise-separable blocks and a head (table 1 of the paper).

    Attributes:
        alpha: the width multiplier (section 3.3 of the paper): every number of channels is `channels * alpha`. Any
            multiple of 1/32, so that all of these are whole; Keras publishes ImageNet weights of four.
        head: `"article"` or `"article_bn"` (`ArticleHead` without or with batch normalization), `"small"`
            (`SmallHead`), `"imagenet"` (`ImageNetHead`), or None for the features.
        num_classes: the size of the last layer.
        dropout: the fraction of units that the head drops while training.
        plain_convolutions: whether every convolution is a single operation of XLA, the form that converters for phones
            recognize; it is slow on a CPU. Otherwise each has the form that is fastest on the platform.
        frozen_blocks: the number of first blocks that are not trained, nor is `conv1` then: no gradient reaches them.
            0 trains all layers, 13 only the head.
        batch_norm: the batch normalization of frozen blocks. `"frozen"` uses the moving statistics and keeps them, as
            Keras does since TensorFlow 2; `"train"` normalizes by the batch and continues to update the statistics, as
            Keras did in 2018.
        batch_norm_momentum: the share of the moving statistics that each training step keeps. Keras's 0.99 averages
            over the last 100 steps or so.
        batch_norm_epsilon: added to the variance in batch normalization: 0.001 in Keras, 0.00001 in timm.
        padding: the zeros around the input of 3x3 convolutions of stride 2. `"keras"` is `"same"` for `conv1`, and one
            row and column at the bottom and right for the blocks. `"same"` is TensorFlow's SAME everywhere, as in its
            own checkpoints; it equals `"keras"` for sizes that are multiples of 32. `"symmetric"` is one row and column
            at each side, as in PyTorch.
        conv_head: whether a 1x1 convolution with as many channels follows the blocks, as in timm's
            `mobilenetv1_100h`. It belongs to the features, and to no block: `frozen_blocks` does not freeze it.
        folded: whether biases take the place of batch normalization, for inference; see `folding.fold_batch_norm`.
        dtype: the type of the computation: float32; bfloat16, with parameters and statistics still float32 and logits
            that are converted to float32; or float64, to separate rounding from errors.
    """

    alpha: float = 1.0
    head: Head | None = "article"
    num_classes: int = 7
    dropout: float = 0.5
    plain_convolutions: bool = False
    frozen_blocks: int = 0
    batch_norm: FrozenBatchNorm = "frozen"
    batch_norm_momentum: float = 0.99
    batch_norm_epsilon: float = 1e-3
    padding: StridedPadding = "keras"
    conv_head: bool = False
    folded: bool = False
    dtype: DTypeLike = jnp.float32

    @property
    def frozen_layers(self) -> set[str]:
        """The names of the layers that have parameters and are not trained."""
        return list_layers(self.frozen_blocks) if self.frozen_blocks else set()

    @property
    def backbone_layers(self) -> set[str]:
        """The names of the layers that have parameters and do not belong to the head."""
        return list_layers(len(BLOCKS)) | ({"conv_head", "conv_head_bn"} if self.conv_head else set())

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Classifies images.

        Args:
            images: float32 `[batch, height, width, 3]`, at least 32 pixels high and wide, scaled to the input range
                that the weights were trained with.
            train: whether batch normalization uses the statistics of the batch and updates those in the collection
                `batch_stats`, and dropout is active (it needs the random stream `dropout`).

        Returns:
            Logits `[batch, num_classes]`; without a head, features `[batch, height / 32, width / 32, 1024 * alpha]`,
            with the sizes rounded as by `compute_feature_size`.

        Raises:
            ValueError: an attribute or the shape of the images is not one of those above; or `train` is true, but batch
                normalization is folded.
        """
        self._validate(images, train)
        norm = self._make_norm(train)
        x = self._extract_features(images.astype(self.dtype), norm)
        if self.head is not None:
            options = {"norm": norm} if self.head == "article_bn" else {}
            head = _HEADS[self.head](self.num_classes, self.dropout, self.dtype, **options)
            nn.share_scope(self, head)
            x = head(x, train=train)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def _make_norm(self, train: bool) -> Callable[..., nn.Module]:
        if self.folded:
            return functools.partial(Bias, dtype=self.dtype)
        return functools.partial(
            BatchNorm,
            use_running_average=not train,
            momentum=self.batch_norm_momentum,
            epsilon=self.batch_norm_epsilon,
            dtype=self.dtype,
        )

    def _extract_features(self, x: jax.Array, norm: Callable[..., nn.Module]) -> jax.Array:
        is_frozen = self.batch_norm == "frozen" and not self.folded
        frozen_norm = functools.partial(norm, use_running_average=True) if is_frozen else norm

        x = ZeroPadding(compute_padding(self.padding, x.shape[1:3], is_stem=True), name="conv1_pad")(x)
        x = StemConv(int(32 * self.alpha), self.dtype, self.plain_convolutions, name="conv1")(x)
        x = (frozen_norm if self.frozen_blocks else norm)(name="conv1_bn")(x)
        x = ReLU6(name="conv1_relu")(x)
        for index, (channels, stride) in enumerate(BLOCKS, start=1):
            block_norm = frozen_norm if index <= self.frozen_blocks else norm
            features = int(channels * self.alpha)
            padding = compute_padding(self.padding, x.shape[1:3]) if stride == 2 else ((1, 1), (1, 1))
            block = DepthwiseSeparableBlock(index, features, stride, padding, block_norm, self.plain_convolutions)
            nn.share_scope(self, block)
            x = block(x)
            if index == self.frozen_blocks:
                x = jax.lax.stop_gradient(x)
        if self.conv_head:
            x = PointwiseConv(x.shape[-1], self.plain_convolutions, name="conv_head")(x)
            x = ReLU6(name="conv_head_relu")(norm(name="conv_head_bn")(x))
        if not self.is_initializing():  # keeps the perturbation out of the variables of a new model
            x = self.perturb("features", x)  # the identity; Grad-CAM differentiates with respect to the perturbation
        return x

    def _validate(self, images: jax.Array, train: bool) -> None:
        if train and self.folded:
            raise ValueError("batch normalization is folded: train the model without folded=True")
        if not is_width_multiplier(self.alpha):
            raise ValueError(f"alpha is {self.alpha}: expected a multiple of 1/32, so that channels are whole")
        for name, value, choices in (
            ("padding", self.padding, get_args(StridedPadding)),
            ("batch_norm", self.batch_norm, get_args(FrozenBatchNorm)),
            ("frozen_blocks", self.frozen_blocks, range(len(BLOCKS) + 1)),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}: expected one of {tuple(choices)}")
        if self.head is not None and self.head not in _HEADS:
            raise ValueError(f"head is {self.head!r}: expected None or one of {tuple(_HEADS)}")
        if images.ndim != 4 or images.shape[3] != 3 or min(images.shape[1:3]) < MIN_IMAGE_SIZE:
            raise ValueError(
                f"images are {images.shape}: expected (batch, height, width, 3) with sides of at least {MIN_IMAGE_SIZE}"
            )


def list_layers(blocks: int) -> set[str]:
    """Returns the names of the layers of the stem and of the first blocks that have parameters."""
    convs = {"conv1", *(f"conv_{conv}_{i + 1}" for i in range(blocks) for conv in ("dw", "pw"))}
    return convs | {f"{conv}_bn" for conv in convs}


def is_width_multiplier(alpha: float) -> bool:
    """Returns whether every layer has a whole number of channels, the narrowest 32 alpha."""
    return alpha > 0 and float(32 * alpha).is_integer()


def compute_padding(padding: StridedPadding, size: tuple[int, ...], *, is_stem: bool = False) -> Padding:
    """Computes the zeros that precede a 3x3 kernel at stride 2.

    Args:
        padding: see `MobileNet`.
        size: height and width of the input.
        is_stem: whether it is the input of `conv1`.

    Returns:
        `((top, bottom), (left, right))`. TensorFlow's SAME is (0, 1) for even sizes, as in the article's layer table,
        and (1, 1) for odd ones.
    """
    if padding == "symmetric":
        return ((1, 1), (1, 1))
    if padding == "keras" and not is_stem:  # for even and odd sizes alike
        return ((0, 1), (0, 1))
    rows, columns = ((1, 1) if n % 2 else (0, 1) for n in size)
    return rows, columns


def trace_strided_layers(padding: StridedPadding, size: Size) -> Iterator[tuple[Padding, Size]]:
    """Yields the padding, and the size of the output, of each layer of stride 2, from `conv1` on.

    Args:
        padding: see `MobileNet`.
        size: height and width of the image.
    """
    for index in range(1 + sum(stride == 2 for _, stride in BLOCKS)):
        (top, bottom), (left, right) = zeros = compute_padding(padding, size, is_stem=index == 0)
        size = ((size[0] + top + bottom - 3) // 2 + 1, (size[1] + left + right - 3) // 2 + 1)
        yield zeros, size


def compute_feature_size(padding: StridedPadding, size: Size) -> Size:
    """Computes height and width of the features of an image of a size."""
    return list(trace_strided_layers(padding, size))[-1][1]
