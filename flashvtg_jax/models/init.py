"""Fresh parameters of a model, from the widths of its features."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def clip_shape(spatial_tokens: int, width: int) -> tuple[int, ...]:
    """The shape of one clip's features: (S, width), or (width,) where S is 1."""
    return (width,) if spatial_tokens == 1 else (spatial_tokens, width)


def init_params(model: nn.Module, key: jax.Array, video_dim: int, query_dim: int) -> Any:
    """Initial parameters of `model`.

    Args:
      model: a `FlashVTG`, or a module that is called as one.
      key: for the random initialisation.
      video_dim: width of a clip's features, without the temporal endpoints; with several spatial
        tokens, of one token.
      query_dim: width of a word's features.
    """
    video = jnp.zeros((1, 2, *clip_shape(model.spatial_tokens, video_dim)))
    query = jnp.zeros((1, 2, query_dim))
    masks = jnp.ones((1, 2), bool)
    return model.init(key, video, masks, query, masks)["params"]
