"""Highlight detection: how salient each clip is in its video (paper section 3.2)."""

import math

import flax.linen as nn
import jax.numpy as jnp

from flashvtg_jax.models.layers import Dtype, dense
from flashvtg_jax.typing import Array, Bool, Float


class SaliencyHead(nn.Module, kw_only=True):
    """Scaled product of each clip with the mean of the valid clips, both projected.

    clips [B, L, D], mask [B, L] bool -> [B, L] float32, 0 where padded.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, clips: Float[Array, "B L D"], mask: Bool[Array, "B L"]
    ) -> Float[Array, "B L"]:
        width = clips.shape[-1]
        count = jnp.maximum(mask.sum(-1), 1)[:, None]
        mean = jnp.where(mask[..., None], clips.astype(jnp.float32), 0).sum(1) / count
        local = dense(width, width, dtype=self.dtype, name="clip")(clips)
        whole = dense(width, width, dtype=self.dtype, name="video")(mean)
        score = (local.astype(jnp.float32) * whole.astype(jnp.float32)[:, None]).sum(-1)
        return jnp.where(mask, score / math.sqrt(width), 0)
