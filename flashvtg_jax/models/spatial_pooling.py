"""Space-time features: the places of a clip that a query is about make the clip."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from flashvtg_jax.models.layers import Dtype, dense


class SpatialPooling(nn.Module, kw_only=True):
    """Attention of a query to the spatial tokens of each clip, whose weighted mean is the clip.

    clips [B, L, S, D], query_embedding [B, D] -> [B, L, D]. With a single token that is the token,
    whatever the weights. (The paper asks for layering of space-time features; it leaves open how.)
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, clips: chex.Array, query_embedding: chex.Array) -> chex.Array:
        chex.assert_rank([clips, query_embedding], [4, 2])
        width = clips.shape[-1]
        # Tokens are their own keys: a second matrix would change no more than the first one can.
        query = dense(width, width, dtype=self.dtype, name="query")(query_embedding)
        score = (clips.astype(jnp.float32) * query.astype(jnp.float32)[:, None, None]).sum(-1)
        weights = jax.nn.softmax(score / math.sqrt(width), axis=-1)
        pooled = (weights[..., None] * clips.astype(jnp.float32)).sum(axis=2)
        return pooled.astype(clips.dtype)
