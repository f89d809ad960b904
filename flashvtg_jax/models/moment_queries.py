"""Moment queries: a DETR-style decoder in place of the pyramid (the paper's ablation without TFL).

Learned queries read the clips at their single scale, and each proposes one moment, as in
Moment-DETR (Lei et al., 2021); the blocks are those of the clip encoder.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from flashvtg_jax.models.attention import attend, attention_weights, split_heads
from flashvtg_jax.models.layers import Dropout, Dtype, FeedForward, dense, drop_path, layer_norm
from flashvtg_jax.typing import Array, Bool, Float

_SPAN_LAYERS = 3


class CrossAttention(nn.Module, kw_only=True):
    """Multi-head attention of one sequence to another, or to itself with other values.

    query [B, N, D], key and value [B, L, D], mask [B, L] bool -> [B, N, D]. Initialised as PyTorch
    does: query, key and value as one matrix.
    """

    num_heads: int
    dropout: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "B N D"],
        key: Float[Array, "B L D"],
        value: Float[Array, "B L D"],
        mask: Bool[Array, "B L"],
        *,
        train: bool = False,
    ) -> Float[Array, "B N D"]:
        width = query.shape[-1]
        project = partial(
            dense,
            width,
            width,
            dtype=self.dtype,
            # Xavier's for [D, 3 D].
            kernel_init=nn.initializers.variance_scaling(0.5, "fan_avg", "uniform"),
            bias_init=nn.initializers.zeros,
        )
        # The keys have no bias: softmax would not see it, see `attention.SelfAttention`.
        projected = (
            project(name="query")(query),
            project(name="key", use_bias=False)(key),
            project(name="value")(value),
        )
        query, key, value = (split_heads(x, self.num_heads) for x in projected)
        weights = attention_weights(query, key, mask[:, None])
        weights = Dropout(self.dropout)(weights, train=train)
        attended = attend(weights, value)
        out = project(name="out", kernel_init=nn.initializers.xavier_uniform())
        return out(attended.reshape(*attended.shape[:2], width))


class DecoderLayer(nn.Module, kw_only=True):
    """Post-norm decoder layer: queries see each other, then the clips.

    x [B, N, D], its positions [N, D], clips and their positions [B, L, D], mask [B, L] bool
    -> [B, N, D].
    """

    num_heads: int
    ffn_dim: int
    dropout: float
    drop_path: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        positions: Float[Array, "N D"],
        clips: Float[Array, "B L D"],
        clip_positions: Float[Array, "B L D"],
        mask: Bool[Array, "B L"],
        *,
        train: bool = False,
    ) -> Float[Array, "B N D"]:
        attention = partial(
            CrossAttention, num_heads=self.num_heads, dropout=self.dropout, dtype=self.dtype
        )
        positions = positions.astype(x.dtype)
        everywhere = jnp.ones(x.shape[:2], bool)

        def add(x: Array, branch: Array, name: str) -> Array:
            return layer_norm(self.dtype, name)(x + drop_path(self.drop_path, train)(branch))

        placed = x + positions
        among = attention(name="self_attention")
        x = add(x, among(placed, placed, x, everywhere, train=train), "norm_1")
        over = attention(name="cross_attention")
        key = clips + clip_positions.astype(clips.dtype)
        x = add(x, over(x + positions, key, clips, mask, train=train), "norm_2")
        ffn = FeedForward(ffn_dim=self.ffn_dim, dropout=self.dropout, dtype=self.dtype, name="ffn")
        return add(x, ffn(x, train=train), "norm_3")


class MomentQueries(nn.Module, kw_only=True):
    """Learned queries over the clips of a video, each with a score and a window, layer by layer.

    clips, positions [B, L, D], mask [B, L] bool -> (logits [B, A, N] float32, windows [B, A, N, 2]
    float32: start and end in clips), of each of A layers and N queries; the last layer counts, the
    others are auxiliary outputs in training. A logit is Moment-DETR's difference of foreground and
    background; a window has its centre and its width within the video.
    """

    num_queries: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    dropout: float
    drop_path: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        clips: Float[Array, "B L D"],
        positions: Float[Array, "B L D"],
        mask: Bool[Array, "B L"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B A N"], Float[Array, "B A N 2"]]:
        batch, _, width = clips.shape
        embedding = nn.initializers.normal(1.0)
        queries = self.param("queries", embedding, (self.num_queries, width), jnp.float32)
        x = jnp.zeros((batch, self.num_queries, width), clips.dtype)
        layers = []
        for i in range(self.num_layers):
            layer = DecoderLayer(
                num_heads=self.num_heads,
                ffn_dim=self.ffn_dim,
                dropout=self.dropout,
                drop_path=self.drop_path,
                dtype=self.dtype,
                name=f"layer_{i}",
            )
            x = layer(x, queries, clips, positions, mask, train=train)
            layers.append(x)
        x = layer_norm(self.dtype, "norm")(jnp.stack(layers, axis=1))  # [B, A, N, D]

        logits = dense(1, width, dtype=jnp.float32, name="class")(x)[..., 0]
        for i in range(_SPAN_LAYERS - 1):
            x = nn.relu(dense(width, width, dtype=self.dtype, name=f"span_{i}")(x))
        last = f"span_{_SPAN_LAYERS - 1}"
        span = jax.nn.sigmoid(dense(2, width, dtype=jnp.float32, name=last)(x))
        centre, half = span[..., 0], span[..., 1] / 2
        length = mask.sum(-1)[:, None, None, None].astype(jnp.float32)
        return logits, jnp.stack([centre - half, centre + half], axis=-1) * length
