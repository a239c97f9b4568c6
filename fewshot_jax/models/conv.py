"""The convolutional network of the few-shot literature. Array names end in their axes: x_BHWC is ``[B, H, W, C]``.

A 3x3 convolution is written as one matrix product over patches. XLA's own convolution is slow on CPU where an
inner loop needs it, in its gradients and with weights of one task each: MAML's meta-gradient took 15 times as
long. With shared weights, as in a metric learner, it would be the faster one: up to twice forward, equal to 1.5
times for a gradient.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax import block_policy

Downsample = Literal["stride", "max_pool"]
ImageNormKind = Literal["batch", "layer", "group"]


def _same_padding(length: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis that a window of 3 reads, as TensorFlow's "SAME" has them."""
    total = max((-(-length // stride) - 1) * stride + 3 - length, 0)
    return total // 2, total - total // 2


def convolve(x_BHWC: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A 3x3 convolution with zero padding, ``[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), F]``.

    Nine shifted views of the images side by side, times the kernel ``[3, 3, C, F]`` as a matrix.
    """
    _, height, width, _ = x_BHWC.shape
    rows, columns = -(-height // stride), -(-width // stride)
    x_BHWC = jnp.pad(x_BHWC, ((0, 0), _same_padding(height, stride), _same_padding(width, stride), (0, 0)))
    views = [
        x_BHWC[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(3)
        for j in range(3)
    ]
    return jnp.concatenate(views, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def max_pool(x_BHWC: jax.Array) -> jax.Array:
    """The largest of each 2x2 window; an odd last row or column is left out.

    Equal entries share the gradient. Differentiable as often as wanted, in any mode.
    """
    items, height, width, channels = x_BHWC.shape
    x_BHWC = x_BHWC[:, : height // 2 * 2, : width // 2 * 2]
    return x_BHWC.reshape(items, height // 2, 2, width // 2, 2, channels).max((2, 4))


class ImageNorm(nn.Module):
    """Images with mean 0 and variance 1, then a learned scale and shift of each channel.

    Attributes:
        kind: which numbers have the mean and variance: ``"batch"`` a channel in all real images of
            the batch, ``"layer"`` an image, ``"group"`` a group of an image's channels.
        groups: of channels, for ``"group"``.
        epsilon: added to the variance.

    References:
        Ioffe, Szegedy. Batch Normalization. ICML 2015 (algorithm 1). Ba et al. Layer Normalization.
        2016. Wu, He. Group Normalization. ECCV 2018 (section 3.1).
    """

    kind: ImageNormKind
    groups: int = 8
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, mask_B: jax.Array) -> jax.Array:
        items, _, _, channels = x_BHWC.shape
        groups = self.groups if self.kind == "group" else 1
        if channels % groups:
            raise ValueError(f"{channels} channels cannot be divided into groups={groups}")
        precise = jnp.promote_types(x_BHWC.dtype, jnp.float32)
        weight_B = mask_B.astype(precise) / jnp.maximum(mask_B.sum(), 1)

        def mean(value_BHWC: jax.Array) -> jax.Array:
            mean_BC = value_BHWC.mean((1, 2))
            if self.kind == "batch":
                return (weight_B @ mean_BC)[None, None, None, :]
            mean_BG = mean_BC.reshape(items, groups, -1).mean(-1)
            return jnp.repeat(mean_BG, channels // groups, axis=1)[:, None, None, :]

        scale_C = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias_C = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        centred = x_BHWC.astype(precise) - mean(x_BHWC.astype(precise))
        factor = jax.lax.rsqrt(mean(centred**2) + self.epsilon) * scale_C[None, None, None, :]
        return (centred * factor + bias_C[None, None, None, :]).astype(x_BHWC.dtype)


class ConvBlock(nn.Module):
    """Convolution, norm, ReLU and, where it does not stride, max-pooling: half the height and width."""

    width: int
    downsample: Downsample
    norm: ImageNormKind | None
    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, mask_B: jax.Array) -> jax.Array:
        shape = (3, 3, x_BHWC.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), shape, jnp.float32).astype(self.dtype)
        stride = 2 if self.downsample == "stride" else 1
        x_BHWC = convolve(x_BHWC, kernel, stride)
        if self.norm is None:
            bias_F = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
            x_BHWC += bias_F.astype(self.dtype)[None, None, None, :]
        else:
            x_BHWC = ImageNorm(self.norm, self.groups, name="norm")(x_BHWC, mask_B)
        x_BHWC = nn.relu(x_BHWC)
        return x_BHWC if self.downsample == "stride" else max_pool(x_BHWC)


class ConvFeatures(nn.Module):
    """Images ``[B, H, W]`` or ``[B, H, W, C]`` to features ``[B, D]``: blocks of a 3x3 convolution.

    With ``"stride"`` the features are the means over the remaining positions, ``D = width``: the network
    of MAML on Omniglot. With ``"max_pool"`` they are all that is left, ``D = H // 16 * (W // 16) * width`` for
    four layers: the network of matching and prototypical networks (64 for 28 x 28 pixels), and of MAML elsewhere.

    ``norm="batch"`` takes its statistics from the real images of the batch at hand and keeps no
    running ones. So an image's features depend on the others beside it, also when a query set is
    judged: the published numbers of these networks are transductive, and so is this.
    ``"layer"`` and ``"group"`` see one image at a time and are not.

    Attributes:
        width: filters of each convolution.
        layers: number of blocks, each of which halves height and width.
        downsample: ``"stride"`` rounds an odd size up, ``"max_pool"`` down.
        norm: ``"batch"``, ``"layer"``, ``"group"`` or None.
        groups: of channels, for ``norm="group"``; they divide ``width``.
        dtype: of the computation; parameters stay float32.

    References:
        Vinyals et al. Matching Networks for One Shot Learning. NeurIPS 2016 (section 4.1.1).
        Finn, Abbeel, Levine. Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML
        2017 (section 5.2: strided convolutions instead of max-pooling on Omniglot; the mean
        over positions and the initialisation are its code's).
        Snell, Swersky, Zemel. Prototypical Networks for Few-shot Learning. NeurIPS 2017 (section 3.1).
    """

    width: int = 64
    layers: int = 4
    downsample: Downsample = "stride"
    norm: ImageNormKind | None = "batch"
    groups: int = 8
    dtype: jnp.dtype = jnp.float32

    def features(self, height: int, width: int) -> int:
        """Number of features ``D`` of an image of this height and width, in pixels."""
        if self.downsample == "stride":
            return self.width
        return (height >> self.layers) * (width >> self.layers) * self.width

    @nn.compact
    def __call__(self, images: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Compute the features of a batch.

        Args:
            images: ``[B, H, W]`` or ``[B, H, W, C]``, uint8 in 0..255, divided by 255 here, or
                floats, which are taken as they are.
            mask: ``[B]``, False or zero at padded items, which enter no statistics; None for no padding.

        Returns:
            Features ``[B, D]``; those of padded items are of no use.

        Raises:
            ValueError: a shape or dtype is wrong, an attribute is out of range, or max-pooling
                leaves nothing of the images.
        """
        if images.ndim not in (3, 4):
            raise ValueError(f"images has shape {images.shape}: expected [B, H, W] or [B, H, W, C]")
        if self.downsample not in ("stride", "max_pool") or self.norm not in ("batch", "layer", "group", None):
            raise ValueError(
                f"downsample={self.downsample!r}, norm={self.norm!r}: expected 'stride' or 'max_pool', "
                "and 'batch', 'layer', 'group' or None"
            )
        items, height, width = images.shape[:3]
        if not self.features(height, width):
            raise ValueError(
                f"images of {height} x {width} pixels are too small for {self.layers} max-poolings: "
                f"expected at least {2**self.layers} x {2**self.layers}"
            )
        if mask is None:
            mask = jnp.ones(items, bool)
        if mask.shape != (items,):
            raise ValueError(f"mask has shape {mask.shape}, expected {(items,)}, one entry for each image")
        if images.dtype == jnp.uint8:
            x_BHWC = images.astype(self.dtype) / 255
        elif jnp.issubdtype(images.dtype, jnp.floating):
            x_BHWC = images.astype(self.dtype)
        else:
            raise ValueError(f"images has dtype {images.dtype}: expected uint8 in 0..255, or floats")
        x_BHWC = x_BHWC.reshape(items, height, width, -1)
        # Not a product with the mask: nothing in a padded image, not even a NaN, reaches the statistics.
        x_BHWC = jnp.where(mask.astype(bool)[:, None, None, None], x_BHWC, 0)
        policy = block_policy.current_policy()
        block = ConvBlock if policy is None else nn.remat(ConvBlock, policy=policy, prevent_cse=False)
        for layer in range(self.layers):
            x_BHWC = block(self.width, self.downsample, self.norm, self.groups, self.dtype, name=f"block_{layer}")(
                x_BHWC, mask
            )
        return x_BHWC.mean((1, 2)) if self.downsample == "stride" else x_BHWC.reshape(items, -1)
