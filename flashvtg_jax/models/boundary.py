"""Boundary head: the distances from a point to start and end of its moment (paper section 3.4)."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from flashvtg_jax.models.layers import Convolution, Dtype
from flashvtg_jax.models.score_refinement import join_levels, split_levels
from flashvtg_jax.typing import Array, Bool, Float

_KERNEL_SIZE = 3


class BoundaryHead(nn.Module, kw_only=True):
    """Distances to start and end, shared by the levels but for one learned factor each.

    levels: per level [B, L_k, D]; masks: per level [B, L_k] bool -> [B, P, 2] float32, > 0 while
    the factors are, in strides of the point. `num_levels` counts the levels of the pyramid.
    """

    num_levels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, levels: Sequence[Float[Array, "B _ D"]], masks: Sequence[Bool[Array, "B _"]]
    ) -> Float[Array, "B P 2"]:
        lengths = [level.shape[1] for level in levels]
        gap = _KERNEL_SIZE // 2
        mask = join_levels(masks, gap)
        x = join_levels(levels, gap)
        x = nn.relu(_convolution(x.shape[-1], self.dtype, "conv_0")(x, mask))
        x = _convolution(2, jnp.float32, "conv_1")(x, mask)
        factor = self.param("level_factor", nn.initializers.ones, (self.num_levels,), jnp.float32)
        levels = split_levels(x, lengths, gap)
        return jnp.concatenate([jnp.exp(x) * factor[k] for k, x in enumerate(levels)], axis=1)


def _convolution(features: int, dtype: Dtype, name: str) -> Convolution:
    return Convolution(features=features, kernel_size=_KERNEL_SIZE, dtype=dtype, name=name)
