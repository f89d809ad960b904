"""Assignment of windows to points of the pyramid, and their regression targets."""

import jax.numpy as jnp
import numpy as np

from flashvtg_jax.typing import Array, Bool, Float


def assign_points(
    points: Float[Array, "P 4"],
    point_mask: Bool[Array, "B P"],
    windows: Float[Array, "B M 2"],
    window_mask: Bool[Array, "B M"],
    *,
    clip_length: float,
    sample_radius: float,
    nearest_point: bool = False,
) -> tuple[Bool[Array, "B P"], Float[Array, "B P 2"]]:
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
      nearest_point: whether a window without any candidate gets the point nearest to its centre
        that no other window has: of the finest level, the first of equals. A boundary beyond the
        point is then at distance 0, as no point regresses less. Of two such windows with the same
        nearest point, it regresses the shorter one.

    Returns:
      positive [B, P] bool, and distances to start and end [B, P, 2] in strides of the point, 0
      where the point is not positive.
    """
    # Windows often end exactly on a clip, so the last bit counts. Compilers may contract a product
    # and a later subtraction into one instruction that skips the rounding of the product; the
    # selection prevents it.
    windows = windows.astype(jnp.float32) * np.float32(1.0 / clip_length)
    windows = jnp.where(window_mask[..., None], windows, 0.0)
    # One window more that has no candidate, as M may be 0.
    windows = jnp.pad(windows, ((0, 0), (0, 1), (0, 0)))
    window_mask = jnp.pad(window_mask, ((0, 0), (0, 1)))
    start, end = windows[:, None, :, 0], windows[:, None, :, 1]  # [B, 1, M]
    position, low, high, stride = (points[None, :, None, i] for i in range(4))  # [1, P, 1]

    to_start, to_end = position - start, end - position  # [B, P, M]
    centre, reach = (start + end) / 2, stride * sample_radius
    inside = (position >= jnp.maximum(centre - reach, start)) & (
        position <= jnp.minimum(centre + reach, end)
    )
    farther = jnp.maximum(to_start, to_end)
    candidate = (
        inside
        & (farther >= low)
        & (farther <= high)
        & window_mask[:, None, :]
        & point_mask[..., None]
    )

    if nearest_point:
        free = point_mask & ~candidate.any(axis=-1)
        away = jnp.abs(position - (start + end) / 2)  # [B, P, M]
        nearest = jnp.argmin(jnp.where(free[..., None], away, jnp.inf), axis=1)  # [B, M]
        left_out = window_mask & ~candidate.any(axis=1) & free.any(axis=-1, keepdims=True)
        is_nearest = jnp.arange(len(points))[:, None] == nearest[:, None, :]
        candidate |= is_nearest & left_out[:, None, :]
        to_start, to_end = jnp.maximum(to_start, 0), jnp.maximum(to_end, 0)

    shortest = jnp.argmin(jnp.where(candidate, end - start, jnp.inf), axis=-1, keepdims=True)
    distances = [jnp.take_along_axis(x, shortest, axis=-1) for x in (to_start, to_end)]
    offsets = jnp.concatenate(distances, axis=-1) / stride
    positive = candidate.any(axis=-1)
    return positive, jnp.where(positive[..., None], offsets, 0.0)
