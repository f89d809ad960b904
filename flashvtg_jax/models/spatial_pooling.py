"""Space-time features: each clip is pooled from its spatial tokens, by the query."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from flashvtg_jax.models.layers import Dtype, dense
from flashvtg_jax.typing import Array, Float


class SpatialPooling(nn.Module, kw_only=True):
    """Attention of a query to the spatial tokens of each clip, whose weighted mean is the clip.

    clips [B, L, S, D], query_embedding [B, D] -> [B, L, D]. A single token is the clip itself.
    (The paper mentions layering of space-time features without details.)
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, clips: Float[Array, "B L S D"], query_embedding: Float[Array, "B D"]
    ) -> Float[Array, "B L D"]:
        chex.assert_rank([clips, query_embedding], [4, 2])
        width = clips.shape[-1]
        # Tokens are their own keys: a second matrix would add nothing to the first one.
        query = dense(width, width, dtype=self.dtype, name="query")(query_embedding)
        score = (clips.astype(jnp.float32) * query.astype(jnp.float32)[:, None, None]).sum(-1)
        weights = jax.nn.softmax(score / math.sqrt(width), axis=-1)
        pooled = (weights[..., None] * clips.astype(jnp.float32)).sum(axis=2)
        return pooled.astype(clips.dtype)
