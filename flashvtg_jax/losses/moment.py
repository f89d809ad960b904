"""Classification and regression of the points of the pyramid."""

import jax
import jax.numpy as jnp

from flashvtg_jax.losses.masking import keep, masked_mean
from flashvtg_jax.typing import Array, Bool, Float, Num


def focal_classification(
    logits: Float[Array, "B P"],
    positive: Bool[Array, "B P"],
    point_mask: Bool[Array, "B P"],
    *,
    gamma: float,
) -> Float[Array, ""]:
    """Sigmoid focal loss (Lin et al., 2017) without class weights, mean over valid points.

    Args:
      logits, positive, point_mask: [B, P], the last two bool.
      gamma: exponent that plays down the easy points.
    """
    logits = keep(logits, point_mask)
    # The probability of the wrong class is sigmoid(wrong); log-space keeps any gamma smooth.
    wrong = jnp.where(positive, -logits, logits)
    losses = jnp.exp(gamma * jax.nn.log_sigmoid(wrong)) * jax.nn.softplus(wrong)
    return masked_mean(losses, point_mask)


def rating_classification(
    logits: Float[Array, "B P"], labels: Num[Array, "B P"], point_mask: Bool[Array, "B P"]
) -> Float[Array, ""]:
    """Binary cross-entropy of logits against raw saliency labels, mean over valid points.

    Labels above 1 are meant: highlight detection trains on ratings as they are.

    Args:
      logits, labels, point_mask: [B, P], the last one bool.
    """
    logits, labels = keep(logits, point_mask), keep(labels, point_mask)
    return masked_mean(jax.nn.softplus(logits) - logits * labels, point_mask)


def boundary_regression(
    offsets: Float[Array, "B P 2"],
    target_offsets: Float[Array, "B P 2"],
    positive: Bool[Array, "B P"],
) -> Float[Array, ""]:
    """Mean absolute error of both offsets over positive points, 0 when there is none.

    Args:
      offsets, target_offsets: [B, P, 2] in strides.
      positive: [B, P] bool.
    """
    mask = jnp.broadcast_to(positive[..., None], offsets.shape)
    return masked_mean(jnp.abs(keep(offsets, mask) - keep(target_offsets, mask)), mask)
