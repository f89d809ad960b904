"""Building blocks shared by the components: dense layers, norms, dropout, masked convolutions.

Parameters are float32; `dtype` is the type of the matrix products. Statistics of the norms and the
softmax are always float32.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from flashvtg_jax.typing import Array, Bool, Float

Dtype = jax.typing.DTypeLike
Initializer = Callable[..., Array]

# The logit of padded keys: its exponential is 0 in float32, and a row of nothing else is finite.
MASKED_LOGIT = -1e30


def uniform_init(fan_in: int) -> Initializer:
    """PyTorch's default for dense and convolution layers: uniform in +-1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def matmul_precision(dtype: Dtype) -> jax.lax.Precision:
    """Full products for float32, also where the default is lower (TF32, bfloat16 passes)."""
    if jnp.dtype(dtype) == jnp.float32:
        return jax.lax.Precision.HIGHEST
    return jax.lax.Precision.DEFAULT


def dense(
    features: int,
    fan_in: int,
    *,
    dtype: Dtype,
    name: str,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> nn.Dense:
    """`nn.Dense` in full precision, initialised as PyTorch does unless told otherwise."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        precision=matmul_precision(dtype),
        kernel_init=kernel_init or uniform_init(fan_in),
        bias_init=bias_init or uniform_init(fan_in),
        name=name,
    )


def layer_norm(dtype: Dtype, name: str) -> nn.LayerNorm:
    """`nn.LayerNorm` with the model's epsilon (flax's default is 1e-6) and two-pass variance."""
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, use_fast_variance=False, name=name)


class Dropout(nn.Module):
    """Dropout whose masks cost a quarter of `nn.Dropout`'s: [...] -> [...].

    A random byte an element decides; where it is the one that holds the threshold (once in 256) the
    next element's byte decides further, so that the rate is exact to 2^-16. Drawing the masks is
    otherwise a third of a training step on CPU.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], *, train: bool) -> Float[Array, "*shape"]:
        if not train or self.rate == 0:
            return x
        if self.rate == 1:
            return jnp.zeros_like(x)
        shape = (*x.shape[:-1], -(-x.shape[-1] // 4))
        words = jax.random.bits(self.make_rng("dropout"), shape, jnp.uint32)
        random = jax.lax.bitcast_convert_type(words, jnp.uint8)  # [..., 4]
        further = jnp.roll(random, 1, axis=-1)
        whole, part = divmod(round(self.rate * 2**16), 2**8)
        dropped = (random < whole) | ((random == whole) & (further < part))
        dropped = dropped.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
        return jnp.where(dropped, 0, x / jnp.asarray(1 - self.rate, x.dtype))


def drop_path(rate: float, train: bool) -> nn.Dropout:
    """Stochastic depth: drops the whole residual branch of a sample, [B, L, D]."""
    return nn.Dropout(rate, broadcast_dims=(1, 2), deterministic=not train)


def temporal_endpoints(mask: Bool[Array, "B L"]) -> Float[Array, "B L 2"]:
    """Start and end of each clip as fractions of its video: [B, L] bool -> [B, L, 2] float32."""
    length = jnp.maximum(mask.sum(-1, keepdims=True), 1).astype(jnp.float32)
    start = jnp.arange(mask.shape[-1], dtype=jnp.float32) / length
    return jnp.stack([start, start + 1 / length], axis=-1)


def sine_positions(mask: Bool[Array, "B L"], features: int) -> Float[Array, "B L D"]:
    """Sine embedding of the position relative to the video's own length.

    mask [B, L] bool -> [B, L, features] float32; the last valid clip sits at 2 pi, channels
    (2j, 2j+1) are (sin, cos) of the position / 10000^(2j/features).
    """
    count = jnp.cumsum(mask, axis=-1, dtype=jnp.float32)
    position = count / (count[:, -1:] + 1e-6) * (2 * math.pi)
    channel = jnp.arange(features)
    angle = position[..., None] / 10000.0 ** (2 * (channel // 2) / features)
    return jnp.where(channel % 2 == 0, jnp.sin(angle), jnp.cos(angle))


class InputProjection(nn.Module, kw_only=True):
    """LayerNorm -> dropout -> dense, `num_layers` times, ReLU between (not after the last).

    [B, L, any width] -> [B, L, hidden_dim] (one for each modality).
    """

    hidden_dim: int
    num_layers: int
    input_dropout: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*shape width"], *, train: bool = False
    ) -> Float[Array, "*shape D"]:
        for i in range(self.num_layers):
            x = layer_norm(self.dtype, f"norm_{i}")(x)
            x = Dropout(self.input_dropout)(x, train=train)
            x = dense(self.hidden_dim, x.shape[-1], dtype=self.dtype, name=f"dense_{i}")(x)
            if i < self.num_layers - 1:
                x = nn.relu(x)
        return x


class FeedForward(nn.Module, kw_only=True):
    """Dense -> PReLU with one learned slope -> dropout -> dense: [B, L, D] -> [B, L, D]."""

    ffn_dim: int
    dropout: float
    kernel_init: Initializer | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], *, train: bool = False) -> Float[Array, "B L D"]:
        width = x.shape[-1]
        shared = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        x = dense(self.ffn_dim, width, name="dense_0", **shared)(x)
        slope = self.param("slope", nn.initializers.constant(0.25), (), jnp.float32)
        x = jnp.where(x >= 0, x, x * slope.astype(x.dtype))
        x = Dropout(self.dropout)(x, train=train)
        return dense(width, self.ffn_dim, name="dense_1", **shared)(x)


class AttentionPooling(nn.Module):
    """Learned weighted mean of the valid positions: x [B, L, D], mask [B, L] -> [B, D] float32."""

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
        x = x.astype(jnp.float32)
        score = dense(1, x.shape[-1], dtype=jnp.float32, use_bias=False, name="score")(x)[..., 0]
        weights = jax.nn.softmax(jnp.where(mask, score, MASKED_LOGIT), axis=-1)
        return jnp.einsum("bl,bld->bd", weights, x, precision=jax.lax.Precision.HIGHEST)


class Convolution(nn.Module, kw_only=True):
    """Convolution along time with zero padding to the same length, everything invalid read as zero.

    x [B, L, D], mask [B, L] bool -> [B, L, features]. Masking the input is what makes the last
    valid position see zeros, as it does in an unpadded run.
    """

    features: int
    kernel_size: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], mask: Bool[Array, "B L"]
    ) -> Float[Array, "B L features"]:
        length, width = x.shape[1:]
        init = uniform_init(width * self.kernel_size)
        kernel = self.param("kernel", init, (self.kernel_size, width, self.features))
        bias = self.param("bias", init, (self.features,))
        x = jnp.where(mask[..., None], x, 0).astype(self.dtype)
        # One matrix product over the neighbours side by side: XLA's gradients of a convolution are
        # slower on CPU, by far so in a loop.
        half = self.kernel_size // 2
        padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
        around = [padded[:, i : i + length] for i in range(self.kernel_size)]
        flat = kernel.astype(self.dtype).reshape(-1, self.features)
        product = jnp.matmul(
            jnp.concatenate(around, axis=-1), flat, precision=matmul_precision(self.dtype)
        )
        return product + bias.astype(self.dtype)


class PairConvolution(nn.Module, kw_only=True):
    """Convolution with kernel 2 and stride 2, no padding: [B, L, D] -> [B, L // 2, D].

    With `transpose` its opposite, [B, L, D] -> [B, 2 L, D].
    """

    transpose: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B K D"]:
        batch, length, width = x.shape
        # PyTorch counts the fan-in of a transposed convolution over its outputs: 2 x width in both.
        init = uniform_init(2 * width)
        kernel = self.param("kernel", init, (2, width, width)).astype(self.dtype)
        bias = self.param("bias", init, (width,)).astype(self.dtype)
        x = x.astype(self.dtype)
        precision = matmul_precision(self.dtype)
        if self.transpose:
            out = jnp.einsum("bld,kde->blke", x, kernel, precision=precision)
            return out.reshape(batch, 2 * length, width) + bias
        pairs = x[:, : length // 2 * 2].reshape(batch, length // 2, 2 * width)
        return jnp.matmul(pairs, kernel.reshape(2 * width, width), precision=precision) + bias
