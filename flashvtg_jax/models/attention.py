"""Self-attention: of all to all, within a window, or fused by cuDNN; and the encoder layer of it.

Shapes name the heads: [B, L, H, D / H]. Logits and their softmax are always float32.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flashvtg_jax.models.layers import (
    MASKED_LOGIT,
    Dropout,
    Dtype,
    FeedForward,
    Initializer,
    dense,
    drop_path,
    layer_norm,
    matmul_precision,
    uniform_init,
)
from flashvtg_jax.typing import Array, Bool, Float, Size

# Clips of a block, at least: products of smaller matrices leave most of the hardware idle.
SMALLEST_BLOCK = 16

Drop = Callable[[Array], Array]  # dropout on attention weights


def keep_all(weights: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """No dropout."""
    return weights


def split_heads(x: Float[Array, "*shape D"], num_heads: int) -> Float[Array, "*shape H d"]:
    """[B, L, D] -> [B, L, H, D / H]."""
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)


def attention_weights(
    query: Float[Array, "*B L H d"], key: Float[Array, "*B K H d"], mask: Bool[Array, "*B _ K"]
) -> Float[Array, "*B H L K"]:
    """Softmax of scaled dot products over the keys that a query may see, float32.

    query [..., L, H, D/H], key [..., K, H, D/H], mask [..., L or 1, K] bool -> [..., H, L, K].
    A query that may see no key attends to all of them equally.
    """
    logits = jnp.einsum(
        "...lhd,...khd->...hlk",
        query,
        key,
        precision=matmul_precision(query.dtype),
        preferred_element_type=jnp.float32,
    )
    logits = logits / math.sqrt(query.shape[-1])
    logits = jnp.where(mask[..., None, :, :], logits, MASKED_LOGIT)
    return jax.nn.softmax(logits, axis=-1)


def attend(
    weights: Float[Array, "*B H L K"], value: Float[Array, "*B K H d"]
) -> Float[Array, "*B L H d"]:
    """Weighted sum: [..., H, L, K], [..., K, H, D/H] -> [..., L, H, D/H] in the values' type."""
    return jnp.einsum(
        "...hlk,...khd->...lhd",
        weights.astype(value.dtype),
        value,
        precision=matmul_precision(value.dtype),
    )


def full_attention(
    query: Float[Array, "B L H d"],
    key: Float[Array, "B L H d"],
    value: Float[Array, "B L H d"],
    mask: Bool[Array, "B L"],
    drop: Drop = keep_all,
) -> Float[Array, "B L H d"]:
    """Every position attends to every valid one: three [B, L, H, D/H], mask [B, L] -> the same."""
    return attend(drop(attention_weights(query, key, mask[:, None])), value)


def windowed_attention(
    query: Float[Array, "B L H d"],
    key: Float[Array, "B L H d"],
    value: Float[Array, "B L H d"],
    mask: Bool[Array, "B L"],
    window: int,
    drop: Drop = keep_all,
) -> Float[Array, "B L H d"]:
    """Position i attends to the valid j with |i - j| <= window, in memory linear in L.

    Positions are cut into blocks at least as long as the window; the queries of a block see the
    keys of three, so that weights are [B, L / block, H, block, 3 block], or [B, H, L, L] if L is no
    more than three blocks. L may be a symbol (`jax.export`).
    query, key, value [B, L, H, D/H], mask [B, L] bool -> [B, L, H, D/H].
    """
    length = query.shape[1]
    block = max(window, SMALLEST_BLOCK)
    if isinstance(length, int) and length <= 3 * block:
        near = np.abs(np.arange(length) - np.arange(length)[:, None]) <= window
        return attend(drop(attention_weights(query, key, near & mask[:, None])), value)
    num_blocks = (length + block - 1) // block

    def pad(x: Array, before: int, after: int) -> Array:
        return jnp.pad(x, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2))

    def split(x: Array) -> Array:
        """[B, L, ...] -> [B, L / block, block, ...]."""
        x = pad(x, 0, block - 1)[:, : num_blocks * block]
        return x.reshape(x.shape[0], num_blocks, block, *x.shape[2:])

    def with_neighbours(x: Array) -> Array:
        """[B, L, ...] -> [B, L / block, 3 block, ...]: the block before, itself, the one after."""
        x = pad(split(x), 1, 1)
        return jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2)

    distance = np.arange(3 * block) - block - np.arange(block)[:, None]
    near = np.abs(distance) <= window
    weights = attention_weights(
        split(query), with_neighbours(key), near & with_neighbours(mask)[:, :, None]
    )
    out = attend(drop(weights), with_neighbours(value))
    return out.reshape(out.shape[0], num_blocks * block, *out.shape[3:])[:, :length]


def fused_attention(
    query: Float[Array, "B L H d"],
    key: Float[Array, "B L H d"],
    value: Float[Array, "B L H d"],
    mask: Bool[Array, "B L"],
) -> Float[Array, "B L H d"]:
    """`full_attention` by cuDNN on NVIDIA GPUs, which never holds an [L, L] array; plain elsewhere.

    query, key, value [B, L, H, D/H] bfloat16 with D/H a multiple of 8, mask [B, L] bool, True for a
    prefix -> [B, L, H, D/H]. Values at padded positions mean nothing.
    """
    if not _has_fused_kernel():
        return full_attention(query, key, value, mask)
    # The device is known only in lowering: it may be the CPU of a machine with a GPU. The gradient
    # holds the residuals of both branches, which for the plain one must not be [L, L].
    plain = jax.checkpoint(full_attention)
    return jax.lax.platform_dependent(query, key, value, mask, cuda=_cudnn_attention, default=plain)


@functools.cache
def _has_fused_kernel() -> bool:
    """Whether this machine has NVIDIA GPUs that cuDNN's attention runs on: from Ampere on."""
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:  # jax knows no such devices
        return False
    return all(float(device.compute_capability) >= 8 for device in devices)


def _cudnn_attention(
    query: Float[Array, "B L H d"],
    key: Float[Array, "B L H d"],
    value: Float[Array, "B L H d"],
    mask: Bool[Array, "B L"],
) -> Float[Array, "B L H d"]:
    """`full_attention` as cuDNN computes it; needs an NVIDIA GPU."""
    # cuDNN reads lengths, not masks, and with them alone it is right for lengths that are no
    # multiple of its tiles. What it leaves at padded positions, of results and of gradients, is not
    # promised, hence the selections on both sides. A padding row gets a length of 1, of zeros.
    length = query.shape[1]
    odd = ((0, 0), (0, length % 2))  # JAX refuses gradients of odd lengths
    valid = jnp.pad(mask, odd)[..., None, None]
    arrays = (jnp.pad(x, (*odd, (0, 0), (0, 0))) for x in (query, key, value))
    query, key, value = (jnp.where(valid, x, 0) for x in arrays)
    lengths = jnp.maximum(mask.sum(-1, dtype=jnp.int32), 1)
    out = jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return jnp.where(valid, out, 0)[:, :length]


class SelfAttention(nn.Module, kw_only=True):
    """Multi-head self-attention; positions go to queries and keys, never to values.

    x [B, L, D], positions [B, L, D], mask [B, L] bool -> [B, L, D]. With a window, position i
    attends to the j with |i - j| <= window; one that covers [B, L] is no window.
    """

    num_heads: int
    dropout: float
    in_init: Initializer | None = None  # of the [D, 3 D] matrix of query, key and value
    out_init: Initializer | None = None
    dtype: Dtype = jnp.float32
    attention_window: int | None = None
    attention_kernel: str = "xla"  # or "cudnn", which has neither dropout nor a window

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        positions: Float[Array, "#B L D"],
        mask: Bool[Array, "B L"],
        *,
        train: bool = False,
    ) -> Float[Array, "B L D"]:
        width = x.shape[-1]
        precision = matmul_precision(self.dtype)
        kernel = self.param("in_kernel", self.in_init or uniform_init(width), (width, 3 * width))
        bias = self.param("in_bias", nn.initializers.zeros, (3 * width,))
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)

        # The bias of the keys shifts all logits of a query alike, which softmax does not see: its
        # gradient is 0. What rounding makes of that, Adam would scale to steps of full size, others
        # on every number of devices.
        learned = jnp.arange(3 * width) // width != 1
        bias = jnp.where(learned, bias, jax.lax.stop_gradient(bias))

        with_position = (x + positions.astype(x.dtype)).astype(self.dtype)
        query_key = jnp.matmul(with_position, kernel[:, : 2 * width], precision=precision)
        query, key = jnp.split(query_key + bias[: 2 * width], 2, axis=-1)
        value = jnp.matmul(x.astype(self.dtype), kernel[:, 2 * width :], precision=precision)
        value = value + bias[2 * width :]

        arrays = [split_heads(a, self.num_heads) for a in (query, key, value)] + [mask]
        drop = functools.partial(Dropout(self.dropout), train=train)
        if self.attention_window is not None and not _covers(self.attention_window, x.shape[1]):
            attended = windowed_attention(*arrays, self.attention_window, drop)
        elif self.attention_kernel == "cudnn" and not (train and self.dropout > 0):
            attended = fused_attention(*arrays)
        else:
            attended = full_attention(*arrays, drop)
        out = dense(
            width,
            width,
            dtype=self.dtype,
            name="out",
            kernel_init=self.out_init,
            bias_init=nn.initializers.zeros,
        )
        return out(attended.reshape(x.shape))


def _covers(window: int, length: Size) -> bool:
    """Whether every position sees every other; False for a symbolic length."""
    return isinstance(length, int) and window >= length - 1


class EncoderLayer(nn.Module, kw_only=True):
    """Post-norm transformer encoder layer with stochastic depth on both residuals.

    x [B, L, D], positions [B, L, D], mask [B, L] bool -> [B, L, D].
    """

    num_heads: int
    ffn_dim: int
    dropout: float
    drop_path: float
    in_init: Initializer | None = None
    kernel_init: Initializer | None = None
    dtype: Dtype = jnp.float32
    attention_window: int | None = None
    attention_kernel: str = "xla"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        positions: Float[Array, "#B L D"],
        mask: Bool[Array, "B L"],
        *,
        train: bool = False,
    ) -> Float[Array, "B L D"]:
        attention = SelfAttention(
            num_heads=self.num_heads,
            dropout=self.dropout,
            in_init=self.in_init,
            out_init=self.kernel_init,
            dtype=self.dtype,
            attention_window=self.attention_window,
            attention_kernel=self.attention_kernel,
            name="attention",
        )
        ffn = FeedForward(
            ffn_dim=self.ffn_dim,
            dropout=self.dropout,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="ffn",
        )
        attended = attention(x, positions, mask, train=train)
        x = layer_norm(self.dtype, "norm_1")(x + drop_path(self.drop_path, train)(attended))
        fed = ffn(x, train=train)
        return layer_norm(self.dtype, "norm_2")(x + drop_path(self.drop_path, train)(fed))
