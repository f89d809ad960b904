"""Alignment of the most salient clips with their query: a sampled noise-contrastive loss."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from flashvtg_jax.errors import ConfigError
from flashvtg_jax.losses.masking import keep, masked_mean, pick, valid_rows
from flashvtg_jax.typing import Array, Bool, Float, Int, Num

SMALLEST_NORM = 1e-8
DIRECTIONS = ("row", "column")
EXCLUDED = -1e9  # far below any similarity: its exponential is 0, and it stays finite


def alignment_loss(
    memory: Float[Array, "B L D"],
    query_embedding: Float[Array, "B D"],
    video_mask: Bool[Array, "B L"],
    labels: Num[Array, "B L"],
    positive_clips: Int[Array, "B K"],
    *,
    temperature: float,
    directions: Sequence[str],
) -> Float[Array, ""]:
    """Sum of the row and the column term of the sampled noise-contrastive loss.

    Every clip is compared with the query of its own sample. The row term sets the first positive
    clip against the less (or equally) salient clips of its sample, the column term against the
    clips at the same index in the other samples that take part in their own row term.

    Args:
      memory: [B, L, D]. query_embedding: [B, D].
      video_mask: [B, L] bool. labels: [B, L]. positive_clips: [B, K], the first one counts.
      temperature: divides the cosine similarities.
      directions: any of "row" and "column".

    Raises:
      ConfigError: a direction of another name.
    """
    unknown = sorted(set(directions) - set(DIRECTIONS))
    if unknown:
        raise ConfigError(
            f"alignment_directions names {unknown}; use 'row', 'column', or both of them"
        )
    rows = valid_rows(video_mask)
    clip = jnp.clip(positive_clips[:, :1], 0, memory.shape[1] - 1)  # [B, 1]
    labels = keep(labels, video_mask)
    counts = video_mask & (labels <= pick(labels, clip))
    counts |= jnp.arange(memory.shape[1]) == clip

    similarity = jnp.einsum(
        "bld,bd->bl",
        _unit(keep(memory, jnp.broadcast_to(video_mask[..., None], memory.shape))),
        _unit(keep(query_embedding, jnp.broadcast_to(rows[:, None], query_embedding.shape))),
        precision=jax.lax.Precision.HIGHEST,
    )
    similarity = jnp.where(counts & rows[:, None], similarity / temperature, EXCLUDED)

    loss = jnp.zeros((), jnp.float32)
    if "row" in directions:
        within_sample = pick(jax.nn.log_softmax(similarity, axis=1), clip)[:, 0]
        loss -= masked_mean(within_sample, rows)
    if "column" in directions:
        at_my_clip = similarity[:, clip[:, 0]].T  # [b, other]: the other samples at b's clip
        # A sum, not jnp.diagonal, which is a gather, and rows may be sharded over devices.
        own = jnp.eye(len(clip), dtype=bool)
        across_batch = jnp.where(own, jax.nn.log_softmax(at_my_clip, axis=1), 0.0).sum(axis=1)
        loss -= masked_mean(across_batch, rows)
    return loss


def _unit(x: Float[Array, "*shape D"]) -> Float[Array, "*shape D"]:
    """Vectors [..., D] divided by their length, or by `SMALLEST_NORM` when they are shorter."""
    squared_norm = jnp.square(x).sum(axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(squared_norm, SMALLEST_NORM**2))
