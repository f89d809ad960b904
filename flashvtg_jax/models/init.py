"""Fresh parameters."""

from typing import Any

import chex
import jax.numpy as jnp

from flashvtg_jax.data.batch import clip_shape
from flashvtg_jax.models.flashvtg import FlashVTG


def init_params(model: FlashVTG, key: chex.PRNGKey, video_dim: int, query_dim: int) -> Any:
    """Fresh parameters; widths are those of the features, without the temporal endpoints.

    Of space-time features it is the width of one token.
    """
    video = jnp.zeros((1, 2, *clip_shape(model.spatial_tokens, video_dim)))
    query = jnp.zeros((1, 2, query_dim))
    masks = jnp.ones((1, 2), bool)
    return model.init(key, video, masks, query, masks)["params"]
