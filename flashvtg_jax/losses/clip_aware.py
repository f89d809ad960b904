"""Clip-aware score loss: scores of the points of stride 1 follow the saliency labels."""

import jax.numpy as jnp

from flashvtg_jax.losses.masking import keep, masked_mean
from flashvtg_jax.typing import Array, Bool, Float, Num


def clip_aware_loss(
    logits: Float[Array, "B P"],
    points: Float[Array, "P 4"],
    labels: Num[Array, "B L"],
    video_mask: Bool[Array, "B L"],
) -> Float[Array, ""]:
    """Mean squared error between labels and stride-1 logits, each min-max normalised.

    Minima and maxima are those of the whole batch. Without contrast in either of the two, or
    without a level of stride 1, the loss is 0.

    Args:
      logits: [B, P]. points: [P, 4]. labels: [B, L]. video_mask: [B, L] bool.
    """
    stride_one = points[:, 3] == 1
    index = jnp.argmax(stride_one) + jnp.arange(labels.shape[1])  # [L]
    index = jnp.minimum(index, points.shape[0] - 1)
    mask = video_mask & stride_one[index]
    normalised_labels, labels_differ = _min_max(keep(labels, mask), mask)
    normalised_logits, logits_differ = _min_max(keep(logits[:, index], mask), mask)
    error = masked_mean(jnp.square(normalised_labels - normalised_logits), mask)
    return jnp.where(labels_differ & logits_differ, error, 0.0)


def _min_max(
    values: Float[Array, "B L"], mask: Bool[Array, "B L"]
) -> tuple[Float[Array, "B L"], Bool[Array, ""]]:
    """`values` [B, L] with their valid range mapped to 0..1, and whether there is a range."""
    low = jnp.where(mask, values, jnp.inf).min()
    high = jnp.where(mask, values, -jnp.inf).max()
    differ = high > low
    # Where there is no range, the discarded branch still has a gradient, which must be finite.
    return (values - jnp.where(differ, low, 0.0)) / jnp.where(differ, high - low, 1.0), differ
