"""The training objective: five losses and their weighted sum."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from flashvtg_jax.errors import ConfigError
from flashvtg_jax.losses.alignment import alignment_loss
from flashvtg_jax.losses.assignment import assign_points
from flashvtg_jax.losses.clip_aware import clip_aware_loss
from flashvtg_jax.losses.masking import pick
from flashvtg_jax.losses.matching import matched_losses
from flashvtg_jax.losses.moment import (
    boundary_regression,
    focal_classification,
    rating_classification,
)
from flashvtg_jax.losses.saliency import saliency_loss
from flashvtg_jax.losses.targets import Targets
from flashvtg_jax.models.output import FlashVTGOutput
from flashvtg_jax.typing import Array, Float

CLASSIFICATIONS = ("focal", "binary_cross_entropy")


def objective(
    out: FlashVTGOutput, targets: Targets, config: Any
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Weighted loss of a batch, and its terms.

    Padded clips, points and whole rows without a valid clip take no part; a batch that offers a
    term nothing to learn from contributes 0 to it. All terms are float32 scalars.

    Args:
      out: the model's output, in training with negatives.
      targets: labels of the same batch.
      config: the `loss` section of a configuration.

    Returns:
      The loss, and the unweighted terms `classification`, `regression`, `alignment`, `saliency`
      and `clip_aware`. Of moment queries the first two are those of the queries and what they
      match, there is `generalized_iou` besides, and no `clip_aware`: no point scores a clip.

    Raises:
      ConfigError: a classification or an alignment direction that does not exist.
    """
    _check_shapes(out, targets)
    out, targets = jax.tree.map(jnp.asarray, (out, targets))  # numpy indexes no traced arrays
    labels = targets.saliency_labels
    weights = {"alignment": config.lw_sal, "saliency": config.lw_saliency}
    if out.auxiliary_logits is not None:
        terms = matched_losses(out, targets, config)
        weights = {
            "classification": config.match_class_weight,
            "regression": config.match_span_weight,
            "generalized_iou": config.match_giou_weight,
            **weights,
        }
    else:
        terms = _point_losses(out, targets, config)
        weights = {
            "classification": config.lw_cls,
            "regression": config.lw_reg,
            **weights,
            "clip_aware": config.label_loss_coef,
        }
    terms["alignment"] = alignment_loss(
        out.memory,
        out.query_embedding,
        out.video_mask,
        labels,
        targets.positive_clips,
        temperature=config.temperature,
        directions=config.alignment_directions,
    )
    terms["saliency"] = saliency_loss(out, targets, config)
    return sum(weight * terms[name] for name, weight in weights.items()), terms


def _point_losses(
    out: FlashVTGOutput, targets: Targets, config: Any
) -> dict[str, Float[Array, ""]]:
    """The terms of the points of the pyramid: classification, regression, clip_aware."""
    points = out.points.astype(jnp.float32)
    labels = targets.saliency_labels
    positive, target_offsets = assign_points(
        points,
        out.point_mask,
        targets.windows,
        targets.window_mask,
        clip_length=config.clip_length,
        sample_radius=config.sample_radius,
        nearest_point=config.nearest_point,
    )

    if config.classification == "focal":
        classification = focal_classification(
            out.logits, positive, out.point_mask, gamma=config.focal_gamma
        )
    elif config.classification == "binary_cross_entropy":
        clips = jnp.broadcast_to(points[:, 0].astype(jnp.int32), out.logits.shape)
        classification = rating_classification(out.logits, pick(labels, clips), out.point_mask)
    else:
        raise ConfigError(
            f"classification is {config.classification!r}; use 'focal' or 'binary_cross_entropy'"
        )

    regression = jnp.zeros((), jnp.float32)
    if config.regression:
        regression = boundary_regression(out.offsets, target_offsets, positive)

    return {
        "classification": classification,
        "regression": regression,
        "clip_aware": clip_aware_loss(out.logits, points, labels, out.video_mask),
    }


def _check_shapes(out: FlashVTGOutput, targets: Targets) -> None:
    """Asserts that output and targets describe one batch."""
    B, L, D = out.memory.shape
    P, M, K = out.points.shape[0], targets.windows.shape[1], targets.positive_clips.shape[1]
    chex.assert_shape(out.query_embedding, (B, D))
    chex.assert_shape(out.points, (P, 4))
    chex.assert_shape([out.logits, out.point_mask], (B, P))
    chex.assert_shape(out.offsets, (B, P, 2))
    chex.assert_shape([out.saliency, out.query_attention, out.video_mask], (B, L))
    negatives = (out.negative_saliency, out.negative_query_attention, out.negative_index)
    if any(x is not None for x in negatives):
        chex.assert_shape(negatives[:2], (B, L))
        chex.assert_shape(out.negative_index, (B,))
    if out.auxiliary_logits is not None:
        chex.assert_shape(out.auxiliary_logits, (B, None, P))
        chex.assert_shape(out.auxiliary_offsets, (B, None, P, 2))
    chex.assert_shape(targets.windows, (B, M, 2))
    chex.assert_shape(targets.window_mask, (B, M))
    chex.assert_shape(targets.saliency_labels, (B, L))
    chex.assert_shape([targets.positive_clips, targets.negative_clips], (B, K))
    chex.assert_shape(targets.video_id, (B,))
    chex.assert_type([out.point_mask, out.video_mask, targets.window_mask], bool)
