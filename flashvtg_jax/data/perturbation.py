"""Perturbations of videos, for studies of robustness and as augmentation.

The result for a row depends only on its key, its valid clips and the strength, not on the padding
or the other rows. Strength 0 changes nothing, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from flashvtg_jax.data.batch import Batch
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.typing import Array

_MOST_CLIPS = 2**16  # the product of two numbers of clips must fit uint32

# Of one row:
Video = Float[Array, "L *tokens Dv"]
Mask = Bool[Array, " L"]
Strength = Float[Array, ""]
RowKey = Key[Array, ""]


@flax.struct.dataclass
class Perturbation:
    """How the videos of a split are perturbed; the key of each row comes from `seed` and the row.

    Attributes:
      kind: one of `KINDS`; static in compiled programs, unlike the others.
      strength: from 0 to 1.
      seed: from 0 to 2^32 - 1.
    """

    kind: str = flax.struct.field(pytree_node=False)
    strength: float
    seed: int = 0


def perturb_videos(
    video: Float[Array, "B L *tokens Dv"],
    video_mask: Bool[Array, "B L"],
    kind: str,
    strength: Float[Array, "*B"] | float,
    keys: Key[Array, " B"],
    stream_widths: Sequence[int],
) -> Float[Array, "B L *tokens Dv"]:
    """Perturbs each video by itself; labels and moments do not change.

    Args:
      video: [B, L, Dv] normalised features, streams side by side, 0 where padded; or
        [B, L, S, Dv] with S spatial tokens, which are dropped, repeated and moved together.
      video_mask: [B, L] bool, True for the first clips of each row.
      kind: one of `KINDS`:
        "noise": (1 - strength) x + strength n, scaled to norm 1, for each clip, stream and token x
          that is not 0; n is a random direction. At 1 the features are pure noise.
        "dropped_clips": each clip is 0 with probability `strength`. At 1 all are.
        "repeated_clips": each clip but the first repeats the clip before it with probability
          `strength`. At 1 all repeat the first.
        "frame_rate": 1 - strength of the clips are sampled evenly, at least one, and each is
          repeated until the next. At 1 all repeat the first.
        "shuffled_blocks": the video is divided into blocks of round(strength x clips) clips, at
          least one (the last may be shorter), and the clips of each block are shuffled. At 1 all
          clips are.
        "missing_stream": with probability `strength` one stream, chosen uniformly, is 0 in all
          clips. At 1 every video lacks one.
      strength: [] or [B], from 0 to 1.
      keys: [B] of `jax.random.key`, one for each row: see `row_keys`.
      stream_widths: of the streams, Dv in all.

    Returns:
      the videos, of the same shape; 0 where padded.
    """
    chex.assert_rank([video, video_mask, keys], [{3, 4}, 2, 1])
    chex.assert_equal_shape_prefix([video, video_mask], 2)
    chex.assert_equal_shape_prefix([video, keys], 1)
    chex.assert_axis_dimension(video, -1, sum(stream_widths))
    strength = jnp.broadcast_to(jnp.asarray(strength, jnp.float32), keys.shape)
    perturb = partial(_PERTURB[kind], stream_widths=tuple(stream_widths))
    return jax.vmap(perturb)(video, video_mask, strength, keys)


def row_keys(key: Key[Array, ""], rows: Int[Array, " B"]) -> Key[Array, " B"]:
    """Returns a key for each row [B] int32, from its index in the split, not in the batch."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)


def perturb_split(batch: Batch, perturbation: Perturbation, stream_widths: Sequence[int]) -> Batch:
    """Returns the batch with its videos perturbed; the same for an example in every batch."""
    keys = row_keys(jax.random.key(perturbation.seed), batch.example)
    video = perturb_videos(
        batch.video,
        batch.video_mask,
        perturbation.kind,
        perturbation.strength,
        keys,
        stream_widths,
    )
    return batch.replace(video=video)


def augment_videos(
    batch: Batch, kind: str, strength: float, keys: Key[Array, " B"], stream_widths: Sequence[int]
) -> Batch:
    """Returns the batch with each video perturbed by a strength drawn from 0 to `strength`."""
    draws, keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    strengths = strength * jax.vmap(jax.random.uniform)(draws)
    video = perturb_videos(batch.video, batch.video_mask, kind, strengths, keys, stream_widths)
    return batch.replace(video=video)


def check_perturbation(kind: str, num_streams: int, *, name: str) -> None:
    """Raises ConfigError for an unknown kind, or one that needs more streams than there are.

    `name` is that of the option, such as "config.data.augment".
    """
    if kind not in KINDS:
        raise ConfigError(f"{name} is {kind!r}; it knows {', '.join(KINDS)}")
    if kind == "missing_stream" and num_streams < 2:
        others = ", ".join(other for other in KINDS if other != kind)
        raise ConfigError(
            f"{name} is 'missing_stream', but the videos have {num_streams} stream: name another "
            f"in config.data.video_streams, or choose one of {others}"
        )


def check_strength(strength: float, *, name: str) -> None:
    """Raises ConfigError for a strength outside 0 to 1; `name` is that of the option."""
    if not 0 <= strength <= 1:
        raise ConfigError(f"{name} is {strength}; it must be from 0 to 1")


def _noise(
    video: Video, mask: Mask, strength: Strength, key: RowKey, stream_widths: tuple[int, ...]
) -> Video:
    draw = partial(jax.random.normal, shape=video.shape[1:], dtype=video.dtype)
    edges = np.cumsum(stream_widths)[:-1]
    noise = jnp.split(jax.vmap(draw)(_clip_keys(key, mask)), edges, axis=-1)
    streams = [
        jnp.where(
            jnp.any(stream != 0, -1, keepdims=True),
            _unit((1 - strength) * stream + strength * _unit(direction)),
            0,
        )
        for stream, direction in zip(jnp.split(video, edges, axis=-1), noise, strict=True)
    ]
    # At strength 0 scaling would still round.
    return jnp.where(strength > 0, jnp.concatenate(streams, axis=-1), video)


def _dropped_clips(
    video: Video, mask: Mask, strength: Strength, key: RowKey, stream_widths: tuple[int, ...]
) -> Video:
    del stream_widths
    dropped = _clip_draws(key, mask) < strength
    return jnp.where(dropped.reshape(-1, *[1] * (video.ndim - 1)), 0, video)


def _repeated_clips(
    video: Video, mask: Mask, strength: Strength, key: RowKey, stream_widths: tuple[int, ...]
) -> Video:
    del stream_widths
    clip = jnp.arange(len(mask))
    repeated = (_clip_draws(key, mask) < strength) & (clip > 0)
    return _take_clips(video, mask, jax.lax.cummax(jnp.where(repeated, 0, clip)))


def _frame_rate(
    video: Video, mask: Mask, strength: Strength, key: RowKey, stream_widths: tuple[int, ...]
) -> Video:
    del key, stream_widths
    chex.assert_axis_dimension_lt(video, 0, _MOST_CLIPS)
    count = mask.sum().astype(jnp.uint32)
    kept = jnp.round((1 - strength) * count.astype(jnp.float32)).astype(jnp.uint32)
    count = jnp.maximum(count, 1)
    kept = jnp.clip(kept, 1, count)
    sample = jnp.arange(len(mask), dtype=jnp.uint32) * kept // count
    first = (sample * count + kept - 1) // kept  # first clip of this sample
    return _take_clips(video, mask, first.astype(jnp.int32))


def _shuffled_blocks(
    video: Video, mask: Mask, strength: Strength, key: RowKey, stream_widths: tuple[int, ...]
) -> Video:
    del stream_widths
    clips = jnp.round(strength * mask.sum().astype(jnp.float32)).astype(jnp.int32)
    block = jnp.arange(len(mask)) // jnp.maximum(clips, 1)
    block = jnp.where(mask, block, len(mask))  # padding stays last
    return _take_clips(video, mask, jnp.lexsort((_clip_draws(key, mask), block)))


def _missing_stream(
    video: Video, mask: Mask, strength: Strength, key: RowKey, stream_widths: tuple[int, ...]
) -> Video:
    del mask
    draw, choice = jax.random.split(key)
    missing = jax.random.randint(choice, (), 0, len(stream_widths))
    of_stream = jnp.asarray(np.repeat(np.arange(len(stream_widths)), stream_widths))
    return jnp.where((of_stream == missing) & (jax.random.uniform(draw) < strength), 0, video)


def _clip_keys(key: RowKey, mask: Mask) -> Key[Array, " L"]:
    """Returns a key for each clip [L], the same whatever the padding."""
    return row_keys(key, jnp.arange(len(mask)))


def _clip_draws(key: RowKey, mask: Mask) -> Float[Array, " L"]:
    """Draws a number from [0, 1) for each clip [L]."""
    return jax.vmap(jax.random.uniform)(_clip_keys(key, mask))


def _take_clips(video: Video, mask: Mask, clip: Int[Array, " L"]) -> Video:
    """Returns the video with valid clips replaced by those of the indices `clip` [L]."""
    return video[jnp.where(mask, clip, jnp.arange(len(mask)))]


def _unit(features: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
    """Scales each row [..., width] to norm 1; 0 stays 0."""
    squares = jnp.square(features)
    # Summed in a fixed order: that of jnp.sum depends on the number of rows, padding included.
    while (width := squares.shape[-1]) > 1:
        half = width // 2
        halves = squares[..., :half] + squares[..., half : 2 * half]
        squares = jnp.concatenate([halves, squares[..., 2 * half :]], axis=-1)
    return features / jnp.maximum(jnp.sqrt(squares), 1e-12)


_PERTURB = {
    "noise": _noise,
    "dropped_clips": _dropped_clips,
    "repeated_clips": _repeated_clips,
    "frame_rate": _frame_rate,
    "shuffled_blocks": _shuffled_blocks,
    "missing_stream": _missing_stream,
}

KINDS = tuple(_PERTURB)
