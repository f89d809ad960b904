"""From logits and offsets to ranked moments: pure, batched, static shapes."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from flashvtg_jax.models.output import FlashVTGOutput
from flashvtg_jax.typing import Array, Float, Int, Num, Scalar

NMS_TYPES = ("normal", "linear")


@partial(
    jax.jit,
    static_argnames=(
        "max_moments",
        "nms_threshold",
        "nms_type",
        "window_range",
        "round_decimals",
        "round_to_clips",
    ),
)
def decode_moments(
    output: FlashVTGOutput,
    duration: Num[Array, " B"] | Scalar,
    clip_length: Scalar = 2.0,
    max_moments: int = 50,
    nms_threshold: float | None = None,
    *,
    nms_type: str = "normal",
    window_range: tuple[float, float] | None = None,
    round_decimals: bool = False,
    round_to_clips: bool = False,
) -> Float[Array, "B K 3"]:
    """The best moments of each sample, best first: [B, max_moments, 3] start, end (seconds), score.

    Args:
      output: of the model.
      duration: [B] or scalar, seconds; windows are clipped to [0, duration].
      clip_length: seconds.
      max_moments: rows returned. A sample with fewer valid points ends in rows of zeros;
        `num_moments` is the number of the others.
      nms_threshold: suppress what overlaps a better moment by this IoU or more; None: keep all.
      nms_type: "normal", the suppressed keep their place with score 0, or "linear", their score is
        multiplied by 1 - IoU at each step. Afterwards rows are sorted by score again.
      window_range: clip windows to this range as well (seconds), before rounding to clips.
      round_decimals: round windows and scores to 4 decimals.
      round_to_clips: round windows to multiples of `clip_length`, half to even. The official
        evaluation does both before NMS.

    Raises ValueError for another `nms_type`.
    """
    duration = jnp.broadcast_to(jnp.asarray(duration, jnp.float32), output.logits.shape[:1])
    score, index = best_points(output, max_moments)
    windows = point_windows(output, clip_length)
    windows = jnp.pad(windows, ((0, 0), (0, max_moments), (0, 0)))
    windows = jnp.take_along_axis(windows, index[..., None], axis=1)
    windows = jnp.clip(windows, 0, duration[:, None, None])
    if round_decimals:
        score, windows = (jnp.round(a * 1e4) / 1e4 for a in (score, windows))
    if window_range is not None:
        windows = jnp.clip(windows, *window_range)
    if round_to_clips:
        windows = jnp.round(windows / clip_length) * clip_length

    valid = score >= 0
    moments = jnp.concatenate([windows, score[..., None]], axis=-1)
    moments = jnp.where(valid[..., None], moments, 0)
    if nms_threshold is not None:
        moments = non_max_suppression(moments, nms_threshold, nms_type)
    return moments


def decode_as_evaluated(
    output: FlashVTGOutput,
    duration: Num[Array, " B"] | Scalar,
    clip_length: Scalar,
    settings: Any,
    max_moments: int | None = None,
) -> Float[Array, "B K 3"]:
    """`decode_moments` as the official evaluation does it: clipped to a range and rounded.

    Args:
      output: of the model.
      duration: [B] seconds.
      clip_length: seconds.
      settings: the `evaluation` section of a configuration.
      max_moments: K; None: that of the settings.

    Returns moments [B, K, 3] as `decode_moments`, not suppressed.
    """
    window_range = settings.window_range
    return decode_moments(
        output,
        duration,
        clip_length,
        settings.max_moments if max_moments is None else max_moments,
        window_range=None if window_range is None else tuple(window_range),
        round_decimals=True,
        round_to_clips=settings.round_to_clip_length,
    )


def best_points(
    output: FlashVTGOutput, count: int
) -> tuple[Float[Array, "B count"], Int[Array, "B count"]]:
    """Scores [B, count] and indices [B, count] of the points that `decode_moments` takes, in order.

    Where a sample has fewer valid points, scores of -1 follow.
    """
    # There may be fewer points than `count`, or a symbolic number of them: rows of -1 follow.
    # Sigmoid is monotone, but saturates: equal scores rank by position, as in the authors' code.
    score = jnp.where(output.point_mask, jax.nn.sigmoid(output.logits), -1.0)
    score = jnp.pad(score, ((0, 0), (0, count)), constant_values=-1.0)
    best, index = jax.lax.top_k(score, count)
    return best, index


def num_moments(output: FlashVTGOutput, max_moments: int = 50) -> Int[Array, " B"]:
    """The number of rows of `decode_moments` that are not padding."""
    return jnp.minimum(output.point_mask.sum(-1), max_moments)


def point_windows(output: FlashVTGOutput, clip_length: Scalar) -> Float[Array, "B P 2"]:
    """The window of every point, unclipped: [B, P, 2] seconds."""
    position, stride = output.points[:, 0], output.points[:, 3]
    start = position - output.offsets[..., 0] * stride
    end = position + output.offsets[..., 1] * stride
    # The authors divide by the number of clips a second; the order of rounding is kept.
    return jnp.stack([start, end], axis=-1) / (1 / clip_length)


def temporal_iou(
    first: Float[Array, "... 2"], second: Float[Array, "... 2"]
) -> Float[Array, "..."]:
    """Intersection over union of windows [..., 2] and [..., 2], broadcast; 0 if both are empty."""
    lap = jnp.minimum(first[..., 1], second[..., 1]) - jnp.maximum(first[..., 0], second[..., 0])
    lap = jnp.maximum(lap, 0)
    union = first[..., 1] - first[..., 0] + second[..., 1] - second[..., 0] - lap
    return jnp.where(union > 0, lap / jnp.where(union > 0, union, 1), 0)


def non_max_suppression(
    moments: Float[Array, "B K 3"], threshold: Scalar, nms_type: str = "normal"
) -> Float[Array, "B K 3"]:
    """Greedy non-maximum suppression: [B, K, 3] -> [B, K, 3], sorted by the new score.

    Raises ValueError for a type other than "normal" and "linear".
    """
    if nms_type not in NMS_TYPES:
        raise ValueError(f"nms_type is 'normal' or 'linear', not {nms_type!r}")
    windows, score = moments[..., :2], moments[..., 2]
    iou = temporal_iou(windows[:, :, None], windows[:, None])
    rows = jnp.arange(moments.shape[0])

    def visit(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        score, waiting = state
        best = jnp.argmax(jnp.where(waiting, score, -1), axis=1)
        waiting = waiting.at[rows, best].set(False)
        overlap = iou[rows, best]
        if nms_type == "normal":
            lowered = jnp.where(overlap >= threshold, 0, score)
        else:
            lowered = score * (1 - overlap)
        return jnp.where(waiting, lowered, score), waiting

    waiting = jnp.ones(score.shape, bool)
    score, _ = jax.lax.fori_loop(0, score.shape[1], visit, (score, waiting))
    order = jnp.argsort(-score, axis=1, stable=True)
    moments = jnp.concatenate([windows, score[..., None]], axis=-1)
    return jnp.take_along_axis(moments, order[..., None], axis=1)
