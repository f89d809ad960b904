"""Reductions in which padding takes no part, in the value or in the gradient."""

import chex
import jax.numpy as jnp


def valid_rows(video_mask: chex.Array) -> chex.Array:
    """Rows of the batch that hold a sample, from the clip mask [B, L]: [B] bool."""
    return video_mask.any(axis=-1)


def keep(values: chex.Array, mask: chex.Array) -> chex.Array:
    """`values` as float32 with 0 where `mask` (same shape) is False.

    Losses apply it to their inputs before anything else: whatever padding holds then reaches
    neither an exponential nor, as 0 * inf, a gradient.
    """
    return jnp.where(mask, values.astype(jnp.float32), 0.0)


def masked_mean(values: chex.Array, mask: chex.Array) -> chex.Array:
    """Mean of `values` where `mask` (same shape) is True, a scalar; 0 when it is True nowhere."""
    return keep(values, mask).sum() / jnp.maximum(mask.sum(), 1)


def pick(values: chex.Array, clips: chex.Array) -> chex.Array:
    """Values [B, L] at the clip indices [B, K] of each row: [B, K]."""
    return jnp.take_along_axis(values, clips, axis=1, mode="clip")
