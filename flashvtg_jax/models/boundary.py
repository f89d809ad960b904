"""Boundary head: how far before and after a point its moment reaches (paper section 3.4)."""

from collections.abc import Sequence

import chex
import flax.linen as nn
import jax.numpy as jnp

from flashvtg_jax.models.layers import Convolution, Dtype
from flashvtg_jax.models.score_refinement import join_levels, split_levels


class BoundaryHead(nn.Module):
    """Distances to start and end, shared by the levels but for one learned factor each.

    levels: per level [B, L_k, D]; masks: per level [B, L_k] bool -> [B, P, 2] float32, > 0 while
    the factors are, in strides of the point. `num_levels` counts the levels of the pyramid.
    """

    num_levels: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[chex.Array], masks: Sequence[chex.Array]) -> chex.Array:
        lengths = [level.shape[1] for level in levels]
        gap = 1  # half of the kernel
        mask = join_levels(masks, gap)
        x = join_levels(levels, gap)
        x = nn.relu(Convolution(x.shape[-1], 3, self.dtype, name="conv_0")(x, mask))
        x = Convolution(2, 3, jnp.float32, name="conv_1")(x, mask)
        factor = self.param("level_factor", nn.initializers.ones, (self.num_levels,), jnp.float32)
        levels = split_levels(x, lengths, gap)
        return jnp.concatenate([jnp.exp(x) * factor[k] for k, x in enumerate(levels)], axis=1)
