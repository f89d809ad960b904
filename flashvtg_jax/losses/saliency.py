"""Saliency losses, on the saliency scores and on the attention that clips pay to the query."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flashvtg_jax.losses.masking import keep, masked_mean, pick, valid_rows
from flashvtg_jax.losses.targets import Targets
from flashvtg_jax.models.output import FlashVTGOutput
from flashvtg_jax.typing import Array, Bool, Float, Int, Num

# Labels run to 12. The sum over the thresholds is divided by 12 although 12 is not one of them,
# and the ranking carries this epsilon: released weights were trained so.
THRESHOLDS = np.arange(1, 12, dtype=np.float32)
DIVISOR = 12
EPSILON = 1e-6

# 1 - a resolves no finer than this in float32, so a logarithm of less is noise.
SMALLEST_PROBABILITY = 1e-7


def saliency_loss(out: FlashVTGOutput, targets: Targets, config: Any) -> Float[Array, ""]:
    """Margin, ranking, negative-pair and cross-entropy terms, summed.

    With negatives in `out`, a sample's clips also appear against another sample's query, where
    none of them is salient. Two samples of one video make no such pair: the other query may well
    describe these clips. Their saliency is then ranked within its own list, if there are two such
    samples or more in the batch, and their attention not at all; when the batch holds no negative
    pair, every list is ranked by itself.

    Args:
      out: the model's output, with or without negatives.
      targets: labels of the same batch.
      config: `saliency_margin`, `rank_temperature`, `negative_pair_weight`, `lw_wattn`.
    """
    mask, labels = out.video_mask, targets.saliency_labels
    rows = valid_rows(mask)
    if out.negative_index is None:
        paired = jnp.zeros_like(rows)
    else:
        paired = rows_with_negatives(targets.video_id, out.negative_index, rows)
    alone = rows & ~paired
    # A single one is left out, as in the authors' training: its mean would weigh this one sample as
    # much as all pairs together.
    ranked_alone = alone & ((alone.sum() > 1) | ~paired.any())

    def margin(scores):
        clips = (targets.positive_clips, targets.negative_clips)
        return margin_loss(scores, *clips, rows, margin=config.saliency_margin)

    def rank(scores, negative_scores, alone):
        temperature = config.rank_temperature
        loss = rank_loss(scores, labels, mask, alone, temperature=temperature)
        if negative_scores is not None:
            loss += rank_loss(
                jnp.concatenate([scores, negative_scores], axis=1),
                jnp.concatenate([labels, jnp.zeros_like(labels)], axis=1),
                jnp.concatenate([mask, mask], axis=1),
                paired,
                temperature=temperature,
            )
        return loss

    saliency = margin(out.saliency) + rank(out.saliency, out.negative_saliency, ranked_alone)
    attention = (
        margin(out.query_attention)
        + rank(out.query_attention, out.negative_query_attention, rows & ~paired.any())
        + attention_cross_entropy(out.query_attention, labels, mask)
    )
    if out.negative_saliency is not None:
        pair = negative_saliency_loss(out.negative_saliency, mask, paired)
        saliency += config.negative_pair_weight * pair
    if out.negative_query_attention is not None:
        pair = negative_attention_loss(out.negative_query_attention, mask, paired)
        attention += config.negative_pair_weight * pair
    return saliency + config.lw_wattn * attention


def rows_with_negatives(
    video_id: Int[Array, " B"], negative_index: Int[Array, " B"], rows: Bool[Array, " B"]
) -> Bool[Array, " B"]:
    """Rows whose negative query belongs to another video, from [B], [B] and [B] bool: [B] bool."""
    return rows & (video_id != video_id[negative_index])


def margin_loss(
    scores: Float[Array, "B L"],
    positive_clips: Int[Array, "B K"],
    negative_clips: Int[Array, "B K"],
    rows: Bool[Array, " B"],
    *,
    margin: float,
) -> Float[Array, ""]:
    """Twice the mean shortfall of the positive clips' lead over the negative ones.

    Args:
      scores: [B, L]. positive_clips, negative_clips: [B, K] paired clip indices.
      rows: [B] bool, those that count.
      margin: the lead that has no loss.
    """
    rows = jnp.broadcast_to(rows[:, None], positive_clips.shape)
    positive = keep(pick(scores, positive_clips), rows)
    negative = keep(pick(scores, negative_clips), rows)
    return 2 * masked_mean(jax.nn.relu(margin + negative - positive), rows)


def rank_loss(
    scores: Float[Array, "B N"],
    labels: Num[Array, "B N"],
    mask: Bool[Array, "B N"],
    rows: Bool[Array, " B"],
    *,
    temperature: float,
) -> Float[Array, ""]:
    """Rank contrastive loss: at each threshold, the clips that reach it against all clips.

    Args:
      scores, labels: [B, N] lists of clips. mask: [B, N] bool.
      rows: [B] bool, the lists that count; the mean runs over them.
      temperature: divides the scores.
    """
    mask = mask & rows[:, None]
    scores = scores.astype(jnp.float32) / temperature
    highest = jnp.where(mask, scores, -jnp.inf).max(axis=1, keepdims=True)
    highest = jnp.where(mask.any(axis=1, keepdims=True), highest, 0.0)
    shifted = jnp.where(mask, scores - highest, 0.0)
    total = keep(jnp.exp(shifted), mask).sum(axis=1, keepdims=True)
    log_probability = keep(shifted - jnp.log(total + EPSILON), mask)

    reached = (labels >= THRESHOLDS[:, None, None]) & mask  # [thresholds, B, N]
    mean_over_reached = jnp.where(reached, log_probability, 0.0).sum(axis=2) / (
        reached.sum(axis=2) + EPSILON
    )
    return -masked_mean(mean_over_reached.sum(axis=0), rows) / DIVISOR


def negative_saliency_loss(
    scores: Float[Array, "B L"], video_mask: Bool[Array, "B L"], pairs: Bool[Array, " B"]
) -> Float[Array, ""]:
    """-log(1 - sigmoid(score)), summed over the clips and averaged over the negative pairs.

    Args:
      scores, video_mask: [B, L], the latter bool. pairs: [B] bool.
    """
    mask = video_mask & pairs[:, None]
    return masked_mean(keep(jax.nn.softplus(keep(scores, mask)), mask).sum(axis=1), pairs)


def negative_attention_loss(
    attention: Float[Array, "B L"], video_mask: Bool[Array, "B L"], pairs: Bool[Array, " B"]
) -> Float[Array, ""]:
    """-log(1 - attention), summed over the clips and averaged over the negative pairs.

    Args:
      attention, video_mask: [B, L], the latter bool. pairs: [B] bool.
    """
    mask = video_mask & pairs[:, None]
    return masked_mean(keep(-_safe_log(1 - keep(attention, mask)), mask).sum(axis=1), pairs)


def attention_cross_entropy(
    attention: Float[Array, "B L"], labels: Num[Array, "B L"], video_mask: Bool[Array, "B L"]
) -> Float[Array, ""]:
    """Binary cross-entropy of the attention against labels cut to 0..1, mean over valid clips.

    Args:
      attention, labels, video_mask: [B, L], the last one bool.
    """
    # 0.5 keeps both logarithms of the clips that do not count away from their floor.
    attention = jnp.where(video_mask, attention.astype(jnp.float32), 0.5)
    labels = jnp.clip(keep(labels, video_mask), 0.0, 1.0)
    losses = -labels * _safe_log(attention) - (1 - labels) * _safe_log(1 - attention)
    return masked_mean(losses, video_mask)


def _safe_log(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(max(x, SMALLEST_PROBABILITY)), with a gradient below the floor, too.

    A plain maximum would have no gradient for the clips that are most wrong.
    """
    return jnp.log(x + jax.lax.stop_gradient(jnp.maximum(x, SMALLEST_PROBABILITY) - x))
