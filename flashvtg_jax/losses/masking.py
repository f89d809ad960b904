"""Reductions in which padding takes no part, in the value or in the gradient."""

import jax.numpy as jnp

from flashvtg_jax.typing import Array, Bool, Float, Int, Num


def valid_rows(video_mask: Bool[Array, "B L"]) -> Bool[Array, " B"]:
    """Rows of the batch that hold a sample, from the clip mask [B, L]: [B] bool."""
    return video_mask.any(axis=-1)


def keep(values: Num[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`values` as float32 with 0 where `mask` (same shape) is False.

    Losses apply it to their inputs first, so that padding reaches neither an exponential nor, as
    0 * inf, a gradient.
    """
    return jnp.where(mask, values.astype(jnp.float32), 0.0)


def masked_mean(values: Num[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Mean of `values` where `mask` (same shape) is True, a scalar; 0 when it is True nowhere."""
    return keep(values, mask).sum() / jnp.maximum(mask.sum(), 1)


def pick(values: Num[Array, "B L"], clips: Int[Array, "B K"]) -> Num[Array, "B K"]:
    """Values [B, L] at the clip indices [B, K] of each row: [B, K]."""
    return jnp.take_along_axis(values, clips, axis=1, mode="clip")
