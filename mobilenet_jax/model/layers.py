"""The layers of MobileNet: Flax's with Keras's defaults, and those that Flax does not have.

Operations without parameters are modules when they are rows of Keras's layer table: `summary.py` lists the layers by
intercepting the calls of modules.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mobilenet_jax.kernels.depthwise import Padding, depthwise_conv
from mobilenet_jax.kernels.normalization import normalize_batch, relu6
from mobilenet_jax.kernels.pointwise import pointwise_conv
from mobilenet_jax.kernels.stem import stem_conv

_glorot = nn.initializers.glorot_uniform()

Conv = functools.partial(nn.Conv, kernel_init=_glorot)
Dense = functools.partial(nn.Dense, kernel_init=_glorot)


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last.

    The parameters are `scale` and `bias`, and the moving statistics `mean` and `var` are in the collection
    `batch_stats`, as in Flax's `BatchNorm`.

    Attributes:
        use_running_average: whether to normalize by the moving statistics, and to keep them; else the statistics of the
            batch are used and averaged into them.
        momentum: the share of the moving statistics that each batch keeps.
        epsilon: added to the variance.
        dtype: the type of the computation; statistics are float32 at least.
    """

    use_running_average: bool
    momentum: float
    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, ..., channels]` to the same shape."""
        shape = (x.shape[-1],)
        mean, var = (
            self.variable("batch_stats", name, initialize, shape, jnp.float32)
            for name, initialize in (("mean", jnp.zeros), ("var", jnp.ones))
        )
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        if self.use_running_average:
            factor = scale * jax.lax.rsqrt(var.value + self.epsilon)
            factor, shift = (jnp.expand_dims(v, range(x.ndim - 1)) for v in (factor, bias - mean.value * factor))
            return (x * factor + shift).astype(self.dtype)
        normalized = normalize_batch(x.astype(self.dtype), scale, bias, self.epsilon)
        if not self.is_initializing():
            for moving, measured in ((mean, normalized.mean), (var, normalized.variance)):
                moving.value = self.momentum * moving.value + (1 - self.momentum) * measured
        return normalized.values


class Bias(nn.Module):
    """Adds a bias to each channel: the remainder of a batch normalization that is folded into the layer before.

    Attributes:
        dtype: the type of the computation.
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., channels]` to the same shape."""
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return x + jnp.expand_dims(bias.astype(self.dtype), range(x.ndim - 1))


class ZeroPadding(nn.Module):
    """Adds rows and columns of zeros.

    Attributes:
        padding: `((top, bottom), (left, right))`.
    """

    padding: Padding

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to the same with the padding added."""
        return jnp.pad(x, ((0, 0), *self.padding, (0, 0)))


class ReLU6(nn.Module):
    """Computes min(max(x, 0), 6)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps an array of any shape to the same shape."""
        return relu6(x)


class StemConv(nn.Module):
    """The first convolution: 3x3, stride 2, without padding or bias.

    Attributes:
        features: the number of filters.
        dtype: the type of the computation.
        plain: whether to use XLA's convolution on every platform.
    """

    features: int
    dtype: DTypeLike
    plain: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to `[batch, (height - 1) // 2, (width - 1) // 2, features]`."""
        kernel = self.param("kernel", _glorot, (3, 3, x.shape[-1], self.features), jnp.float32)
        return stem_conv(x.astype(self.dtype), kernel.astype(self.dtype), "convolution" if self.plain else "auto")


class DepthwiseConv(nn.Module):
    """Applies one 3x3 filter per channel: equation 3 of the paper.

    The kernel is `[3, 3, 1, channels]`; Keras stores `[3, 3, channels, 1]`.

    Attributes:
        stride: 1 or 2, for both axes.
        padding: `((top, bottom), (left, right))`.
        plain: whether to use XLA's convolution on every platform.
    """

    stride: int
    padding: Padding
    plain: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to the size that stride and padding give."""
        kernel = self.param("kernel", _glorot, (3, 3, 1, x.shape[-1]), jnp.float32)
        kernel = kernel.astype(x.dtype)
        return depthwise_conv(x, kernel, self.stride, self.padding, "grouped" if self.plain else "auto")


class PointwiseConv(nn.Module):
    """A 1x1 convolution without bias, as one matrix product over the channels, which is fast on every backend.

    Attributes:
        features: the number of output channels.
        plain: whether it is a convolution of XLA instead.
    """

    features: int
    plain: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to `[batch, height, width, features]`."""
        kernel = self.param("kernel", _glorot, (1, 1, x.shape[-1], self.features), jnp.float32)
        if self.plain:
            return jax.lax.conv_general_dilated(
                x, kernel.astype(x.dtype), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return pointwise_conv(x, kernel[0, 0].astype(x.dtype))
