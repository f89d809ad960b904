"""Which points of the pyramid stand for which window, and what they regress."""

from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np


class Candidates(NamedTuple):
    """Which points may stand for which windows, and for one more that is nobody's: M may be 0.

    candidate: [B, P, M + 1] bool.
    window_mask: [B, M + 1] bool.
    start, end: [B, 1, M + 1] of the windows, clips.
    position, stride: [1, P, 1] of the points, clips.
    to_start, to_end: [B, P, M + 1] distances of points from the ends of windows, clips.
    """

    candidate: Any
    window_mask: Any
    start: Any
    end: Any
    position: Any
    stride: Any
    to_start: Any
    to_end: Any


def find_candidates(
    points: Any,
    point_mask: Any,
    windows: Any,
    window_mask: Any,
    *,
    clip_length: float,
    sample_radius: float,
    xp: Any = jnp,
) -> Candidates:
    """Returns the points that hold a window as `assign_points` says; numpy's with xp=numpy."""
    # Windows often end exactly on a clip, so the last bit counts. Compilers like to contract a
    # product and a later subtraction into one instruction that skips the product's rounding;
    # the selection keeps them apart.
    windows = windows.astype(np.float32) * np.float32(1.0 / clip_length)
    windows = xp.where(window_mask[..., None], windows, 0.0)
    windows = xp.pad(windows, ((0, 0), (0, 1), (0, 0)))
    window_mask = xp.pad(window_mask, ((0, 0), (0, 1)))
    start, end = windows[:, None, :, 0], windows[:, None, :, 1]  # [B, 1, M]
    position, low, high, stride = (points[None, :, None, i] for i in range(4))  # [1, P, 1]

    to_start, to_end = position - start, end - position  # [B, P, M]
    centre, reach = (start + end) / 2, stride * sample_radius
    inside = (position >= xp.maximum(centre - reach, start)) & (
        position <= xp.minimum(centre + reach, end)
    )
    farther = xp.maximum(to_start, to_end)
    candidate = (
        inside
        & (farther >= low)
        & (farther <= high)
        & window_mask[:, None, :]
        & point_mask[..., None]
    )
    return Candidates(candidate, window_mask, start, end, position, stride, to_start, to_end)


def assign_points(
    points: chex.Array,
    point_mask: chex.Array,
    windows: chex.Array,
    window_mask: chex.Array,
    *,
    clip_length: float,
    sample_radius: float,
    nearest_point: bool = False,
) -> tuple[chex.Array, chex.Array]:
    """Positive points and their regression targets.

    A point is a candidate for a window that holds it, whose centre lies within `sample_radius`
    strides, and whose farther boundary lies within the point's regression range. A point with a
    candidate is positive and regresses its shortest one, the first of equals.

    Args:
      points: [P, 4] position, range low and range high in clips, stride.
      point_mask: [B, P] bool.
      windows: [B, M, 2] start and end in seconds.
      window_mask: [B, M] bool.
      clip_length: seconds.
      sample_radius: strides.
      nearest_point: whether the point nearest to the centre of a window becomes its candidate if it
        has no other: of the finest level, the first of equals. A boundary that the point lies
        beyond is at distance 0 then, for no point regresses less.

    Returns:
      positive [B, P] bool, and distances to start and end [B, P, 2] in strides of the point, 0
      where the point is not positive.
    """
    candidate, window_mask, start, end, position, stride, to_start, to_end = find_candidates(
        points,
        point_mask,
        windows,
        window_mask,
        clip_length=clip_length,
        sample_radius=sample_radius,
    )
    if nearest_point:
        away = jnp.abs(position - (start + end) / 2)  # [B, P, M + 1]
        nearest = jnp.argmin(jnp.where(point_mask[..., None], away, jnp.inf), axis=1)  # [B, M + 1]
        left_out = window_mask & ~candidate.any(axis=1) & point_mask.any(axis=-1, keepdims=True)
        is_nearest = jnp.arange(len(points))[:, None] == nearest[:, None, :]
        candidate |= is_nearest & left_out[:, None, :]
        to_start, to_end = jnp.maximum(to_start, 0), jnp.maximum(to_end, 0)

    shortest = jnp.argmin(jnp.where(candidate, end - start, jnp.inf), axis=-1, keepdims=True)
    distances = [jnp.take_along_axis(x, shortest, axis=-1) for x in (to_start, to_end)]
    offsets = jnp.concatenate(distances, axis=-1) / stride
    positive = candidate.any(axis=-1)
    return positive, jnp.where(positive[..., None], offsets, 0.0)
