"""The losses of moment queries: matched with windows first, then classified and regressed.

As Moment-DETR (Lei et al., 2021) defines them: spans are centre and width as fractions of the
video, the match is the one of least total cost, and cost and loss share their weights.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from optax.assignment import hungarian_algorithm

from flashvtg_jax.losses.masking import keep, masked_mean, valid_rows
from flashvtg_jax.losses.targets import Targets
from flashvtg_jax.models.output import FlashVTGOutput
from flashvtg_jax.typing import Array, Bool, Float, Int


class Match(NamedTuple):
    """The window that each query is matched with."""

    window: Int[Array, "B N"]  # of the windows; 0 where there is none
    matched: Bool[Array, "B N"]


def matched_losses(
    out: FlashVTGOutput, targets: Targets, config: Any
) -> dict[str, Float[Array, ""]]:
    """The terms of moment queries, each summed over the layers of the decoder.

    Args:
      out: the model's output with moment queries.
      targets: labels of the same batch.
      config: `clip_length` and the weights `match_class_weight`, `match_span_weight`,
        `match_giou_weight` and `background_weight`.

    A window that begins after the last clip, in a video that was cut, is not matched: the pyramid
    has no point there either.

    Returns:
      `classification`, `regression` (L1 of centre and width) and `generalized_iou`; each layer has
      a match of its own.
    """
    rows = valid_rows(out.video_mask)
    num_clips = jnp.maximum(out.video_mask.sum(-1), 1).astype(jnp.float32)[:, None, None]
    # One window of padding more, as there may be none. Padding reaches no gradient.
    window_mask = jnp.pad(targets.window_mask & rows[:, None], ((0, 0), (0, 1)))
    windows = jnp.pad(targets.windows.astype(jnp.float32), ((0, 0), (0, 1), (0, 0)))
    windows = keep(windows, jnp.broadcast_to(window_mask[..., None], windows.shape))
    windows = windows / config.clip_length / num_clips
    window_mask &= windows[..., 0] < 1

    def of_layer(logits: Array, offsets: Array) -> dict[str, Array]:
        logits = keep(logits, jnp.broadcast_to(rows[:, None], logits.shape))
        offsets = keep(offsets, jnp.broadcast_to(rows[:, None, None], offsets.shape))
        proposed = offsets * jnp.array([-1.0, 1.0]) / num_clips
        match = match_queries(logits, proposed, windows, window_mask, config)
        chosen = jnp.take_along_axis(windows, match.window[..., None], axis=1)
        return {
            "classification": query_classification(
                logits, match.matched, rows, background_weight=config.background_weight
            ),
            "regression": span_distance(proposed, chosen, match.matched),
            "generalized_iou": overlap_loss(proposed, chosen, match.matched),
        }

    logits = jnp.concatenate([out.auxiliary_logits, out.logits[:, None]], axis=1)
    offsets = jnp.concatenate([out.auxiliary_offsets, out.offsets[:, None]], axis=1)
    return jax.tree.map(jnp.sum, jax.vmap(of_layer, in_axes=1)(logits, offsets))


def match_queries(
    logits: Float[Array, "B N"],
    proposed: Float[Array, "B N 2"],
    windows: Float[Array, "B M 2"],
    window_mask: Bool[Array, "B M"],
    config: Any,
) -> Match:
    """The match of queries and windows with the least total cost; it has no gradient.

    Each window gets a query of its own; where there are more windows than queries, each query gets
    a window. The cost of a pair is the weighted sum of minus the query's probability, the L1
    distance of centres and widths, and minus the generalised IoU.

    Args:
      logits: [B, N]. proposed: [B, N, 2] start and end as fractions of the video.
      windows: [B, M, 2] likewise. window_mask: [B, M] bool.
      config: `match_class_weight`, `match_span_weight`, `match_giou_weight`.
    """
    cost = (
        -config.match_class_weight * jax.nn.sigmoid(logits)[..., None]
        + config.match_span_weight * _span_distances(proposed, windows)
        - config.match_giou_weight * generalized_iou(proposed, windows)
    )
    # Windows of padding cost the same for every query, and more than all others, so that they get
    # the queries that are left. A cost that is not finite would keep the search from ending.
    real = jnp.broadcast_to(window_mask[:, None], cost.shape)
    cost = jax.lax.stop_gradient(jnp.where(jnp.isfinite(cost), cost, 1e6))
    highest = jnp.where(real, cost, 0.0).max(axis=(1, 2), keepdims=True)
    cost = jnp.where(real, cost, highest + 1.0)

    def match(cost: Array, mask: Array) -> tuple[Array, Array]:
        queries, assigned = hungarian_algorithm(cost)
        empty = jnp.zeros(cost.shape[0], jnp.int32)
        window = empty.at[queries].set(assigned.astype(jnp.int32))
        return window, empty.astype(bool).at[queries].set(mask[assigned])

    return Match(*jax.vmap(match)(cost, window_mask))


def query_classification(
    logits: Float[Array, "B N"],
    matched: Bool[Array, "B N"],
    rows: Bool[Array, " B"],
    *,
    background_weight: float,
) -> Float[Array, ""]:
    """Cross-entropy of foreground against background, mean over all queries.

    Args:
      logits, matched: [B, N], the latter bool. rows: [B] bool, those that count.
      background_weight: of the queries without a window.
    """
    wrong = jnp.where(matched, -logits, logits)
    losses = jax.nn.softplus(wrong) * jnp.where(matched, 1.0, background_weight)
    return masked_mean(losses, jnp.broadcast_to(rows[:, None], losses.shape))


def span_distance(
    proposed: Float[Array, "B N 2"], windows: Float[Array, "B N 2"], matched: Bool[Array, "B N"]
) -> Float[Array, ""]:
    """Mean absolute error of centre and width over matched queries; 0 when there is none.

    Args:
      proposed, windows: [B, N, 2] start and end as fractions of the video. matched: [B, N] bool.
    """
    mask = jnp.broadcast_to(matched[..., None], proposed.shape)
    return masked_mean(jnp.abs(_centre_width(proposed) - _centre_width(windows)), mask)


def overlap_loss(
    proposed: Float[Array, "B N 2"], windows: Float[Array, "B N 2"], matched: Bool[Array, "B N"]
) -> Float[Array, ""]:
    """1 - generalised IoU, mean over matched queries; 0 when there is none.

    Args:
      proposed, windows: [B, N, 2] start and end. matched: [B, N] bool.
    """
    iou = generalized_iou(proposed[..., None, :], windows[..., None, :])[..., 0, 0]
    return masked_mean(1.0 - iou, matched)


def generalized_iou(
    first: Float[Array, "*B N 2"], second: Float[Array, "*B M 2"]
) -> Float[Array, "*B N M"]:
    """IoU less the share of the hull that neither covers: [..., N, 2], [..., M, 2] -> [..., N, M].

    From -1 to 1 (Rezatofighi et al., 2019, in one dimension); 0 for a hull of no length.
    """
    start, end = first[..., :, None, 0], first[..., :, None, 1]
    other_start, other_end = second[..., None, :, 0], second[..., None, :, 1]
    hull = jnp.maximum(end, other_end) - jnp.minimum(start, other_start)
    lap = jnp.maximum(jnp.minimum(end, other_end) - jnp.maximum(start, other_start), 0.0)
    union = (end - start) + (other_end - other_start) - lap
    iou = lap / jnp.where(union > 0, union, 1.0)
    return iou - jnp.where(hull > 0, (hull - union) / jnp.where(hull > 0, hull, 1.0), 0.0)


def _centre_width(windows: Float[Array, "*shape 2"]) -> Float[Array, "*shape 2"]:
    """[..., 2] start, end -> [..., 2] centre, width."""
    start, end = windows[..., 0], windows[..., 1]
    return jnp.stack([(start + end) / 2, end - start], axis=-1)


def _span_distances(
    first: Float[Array, "*B N 2"], second: Float[Array, "*B M 2"]
) -> Float[Array, "*B N M"]:
    """Sum of the distances of centre and width: [..., N, 2], [..., M, 2] -> [..., N, M]."""
    first, second = _centre_width(first), _centre_width(second)
    return jnp.abs(first[..., :, None, :] - second[..., None, :, :]).sum(-1)
