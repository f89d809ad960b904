"""Feature fusion: dummy tokens, adaptive cross attention, clip encoder (paper section 3.2)."""

import chex
import flax.linen as nn
import jax.numpy as jnp

from flashvtg_jax.models.attention import EncoderLayer, attend, attention_weights, split_heads
from flashvtg_jax.models.layers import Dropout, Dtype, FeedForward, dense, drop_path, layer_norm
from flashvtg_jax.typing import Array, Bool, Float

# The authors truncate at +-2, a hundred standard deviations: in effect a plain normal distribution.
matrix_init = nn.initializers.normal(0.02)


class DummyEncoder(nn.Module, kw_only=True):
    """Learned tokens that read the query, for clips to attend to when no word fits.

    words [B, Q, D], word_mask [B, Q] bool -> dummy keys [B, N, D]: the encoded tokens plus their
    learned positions. (They are keys alone: what a clip would read from them is dropped.)
    """

    num_dummies: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    dropout: float
    drop_path: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, words: Float[Array, "B Q D"], word_mask: Bool[Array, "B Q"], *, train: bool = False
    ) -> Float[Array, "B N D"]:
        batch, num_words, width = words.shape
        shape, init = (self.num_dummies, width), nn.initializers.normal(1.0)
        tokens = self.param("tokens", init, shape)
        positions = self.param("positions", init, shape)

        tokens = jnp.broadcast_to(tokens.astype(words.dtype), (batch, *shape))
        x = jnp.concatenate([tokens, words], axis=1)
        x_positions = jnp.pad(positions, ((0, num_words), (0, 0)))[None]  # words have none
        mask = jnp.pad(word_mask, ((0, 0), (self.num_dummies, 0)), constant_values=True)
        for i in range(self.num_layers):
            layer = EncoderLayer(
                num_heads=self.num_heads,
                ffn_dim=self.ffn_dim,
                dropout=self.dropout,
                drop_path=self.drop_path,
                in_init=nn.initializers.xavier_uniform(),
                dtype=self.dtype,
                name=f"layer_{i}",
            )
            x = layer(x, x_positions, mask, train=train)
        return x[:, : self.num_dummies] + positions.astype(x.dtype)


class CrossAttentionLayer(nn.Module, kw_only=True):
    """One layer of adaptive cross attention, from clips to dummies and words.

    There is no query, key or value projection, and the mass that goes to dummies is dropped, so
    that a clip can attend to nothing. clips [B, L, D], positions [B, L, D], key [B, N + Q, H, D/H]
    and its mask [B, N + Q], value [B, Q, H, D/H]
    -> (clips [B, L, D], attention that reached words [B, L]).

    With `mutable=["intermediates"]` the weights are sown as "attention": [B, L, N + Q] float32, the
    mean over heads; first the dummies, then the words.
    """

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
        key: Float[Array, "B K H d"],
        key_mask: Bool[Array, "B K"],
        value: Float[Array, "B Q H d"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L"]]:
        width = clips.shape[-1]
        num_words = value.shape[1]
        query = split_heads((clips + positions).astype(self.dtype), self.num_heads)
        weights = attention_weights(query, key, key_mask[:, None])
        on_words = weights[..., weights.shape[-1] - num_words :].sum(-1).mean(1)
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "attention", weights.mean(1))

        weights = Dropout(self.dropout)(weights, train=train)
        attended = attend(weights[..., weights.shape[-1] - num_words :], value)
        attended = dense(
            width,
            width,
            dtype=self.dtype,
            name="out",
            kernel_init=matrix_init,
            bias_init=nn.initializers.zeros,
        )(attended.reshape(clips.shape))

        # The second residual is `x`, not its norm: unusual, and what the released weights expect.
        x = clips + drop_path(self.drop_path, train)(attended)
        ffn = FeedForward(
            ffn_dim=self.ffn_dim,
            dropout=self.dropout,
            kernel_init=matrix_init,
            dtype=self.dtype,
            name="ffn",
        )
        fed = ffn(layer_norm(self.dtype, "norm_1")(x), train=train)
        x = layer_norm(self.dtype, "norm_2")(x + drop_path(self.drop_path, train)(fed))
        return x, on_words


class AdaptiveCrossAttention(nn.Module, kw_only=True):
    """Clips read the words of a query, as much or as little as fits them (paper section 3.2).

    clips [B, L, D], clip_positions [B, L, D], words [B, Q, D], word_mask [B, Q] bool,
    dummy_keys [B, N, D] -> (clips [B, L, D], query_attention [B, L] in [0, 1]: the mean over layers
    and heads of the attention that reached words). Raises AssertionError for arrays of other ranks.

    Used alone, it lets any sequence read any other (`examples/plain_jax.py`). D is a multiple of
    `num_heads`; positions may be zeros; dummies are learned keys, a parameter of the caller, for
    positions that should read no word; N may be 0:

        attention = AdaptiveCrossAttention(
            num_layers=2, num_heads=4, ffn_dim=128, dropout=0.1, drop_path=0.1
        )
        arrays = (clips, positions, words, word_mask, dummy_keys)
        params = attention.init(key, *arrays)["params"]
        clips, query_attention = attention.apply({"params": params}, *arrays)

    Words that are False in `word_mask` are not read. Clips do not see each other, so they need no
    mask; ignore the results of padded ones. With `train=True` dropout and stochastic depth
    act and need `rngs={"dropout": key}`.
    """

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
        clip_positions: Float[Array, "B L D"],
        words: Float[Array, "B Q D"],
        word_mask: Bool[Array, "B Q"],
        dummy_keys: Float[Array, "B N D"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L"]]:
        chex.assert_rank([clips, words, word_mask, dummy_keys], [3, 3, 2, 3])
        # Keys and values are the same for every layer: prepared once.
        words = jnp.where(word_mask[..., None], words, 0).astype(self.dtype)
        key = jnp.concatenate([dummy_keys.astype(self.dtype), words], axis=1)
        key, value = (split_heads(a, self.num_heads) for a in (key, words))
        num_dummies = dummy_keys.shape[1]
        key_mask = jnp.pad(word_mask, ((0, 0), (num_dummies, 0)), constant_values=True)

        total = 0.0
        for i in range(self.num_layers):
            layer = CrossAttentionLayer(
                num_heads=self.num_heads,
                ffn_dim=self.ffn_dim,
                dropout=self.dropout,
                drop_path=self.drop_path,
                dtype=self.dtype,
                name=f"layer_{i}",
            )
            clips, on_words = layer(clips, clip_positions, key, key_mask, value, train=train)
            total = total + on_words
        return clips, jnp.clip(total / self.num_layers, 0, 1)


class ClipEncoder(nn.Module, kw_only=True):
    """Self-attention among clips: clips, positions [B, L, D], mask [B, L] bool -> [B, L, D].

    With a window each layer reads as many clips to either side, so that L clips take memory in
    proportion to L, not to its square; a window of L - 1 or more is no window.
    """

    num_layers: int
    num_heads: int
    ffn_dim: int
    dropout: float
    drop_path: float
    dtype: Dtype = jnp.float32
    attention_window: int | None = None  # clips to either side; None: all
    attention_kernel: str = "xla"  # or "cudnn", on NVIDIA GPUs, where no weights are dropped

    @nn.compact
    def __call__(
        self,
        clips: Float[Array, "B L D"],
        positions: Float[Array, "B L D"],
        mask: Bool[Array, "B L"],
        *,
        train: bool = False,
    ) -> Float[Array, "B L D"]:
        for i in range(self.num_layers):
            layer = EncoderLayer(
                num_heads=self.num_heads,
                ffn_dim=self.ffn_dim,
                dropout=self.dropout,
                drop_path=self.drop_path,
                in_init=matrix_init,
                kernel_init=matrix_init,
                dtype=self.dtype,
                attention_window=self.attention_window,
                attention_kernel=self.attention_kernel,
                name=f"layer_{i}",
            )
            clips = layer(clips, positions, mask, train=train)
        return clips
