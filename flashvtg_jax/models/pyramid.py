"""Temporal feature layering: the clips at several temporal resolutions (paper section 3.3)."""

import math
from collections.abc import Sequence

import chex
import flax.linen as nn
import jax.numpy as jnp

from flashvtg_jax.models.layers import Dtype, PairConvolution, layer_norm
from flashvtg_jax.typing import Array, Bool, Float, Size


def level_length(num_clips: Size, stride: float) -> Size:
    """Points of a level: clips that fit its stride, rounded down (0: the video is too short)."""
    # In integers, as a symbolic number of clips (jax.export) requires.
    return num_clips // int(stride) if stride >= 1 else num_clips * round(1 / stride)


def make_points(num_clips: Size, strides: Sequence[float]) -> Float[Array, "P 4"]:
    """Points of all levels: [P, 4] float32 of position, range low, range high (clips) and stride.

    A point regresses the moments whose farther end is within its range; the first level begins at 0
    and the last one has no end.
    """
    lows = [0.0, *strides[1:]]
    highs = [*strides[1:], math.inf]
    levels = []
    for stride, low, high in zip(strides, lows, highs, strict=True):
        position = jnp.arange(level_length(num_clips, stride), dtype=jnp.float32) * stride
        rest = [jnp.full_like(position, value) for value in (low, high, stride)]
        levels.append(jnp.stack([position, *rest], axis=-1))
    return jnp.concatenate(levels)


def make_point_mask(mask: Bool[Array, "B L"], strides: Sequence[float]) -> list[Bool[Array, "B _"]]:
    """Which points lie within the video: mask [B, L] bool -> per level [B, floor(L / stride)].

    A point is valid if the clips it covers are: (i + 1) * stride <= number of valid clips.
    """
    count = mask.sum(-1)[:, None]
    lengths = [level_length(mask.shape[-1], stride) for stride in strides]
    return [
        (jnp.arange(length) + 1) * stride <= count
        for length, stride in zip(lengths, strides, strict=True)
    ]


class TemporalFeatureLayering(nn.Module, kw_only=True):
    """A pyramid of features, each level with its own convolutions over the same memory.

    memory [B, L, D] -> a list with one [B, floor(L / stride), D] per stride, of
    length 0 where the video is shorter than the stride (paper section 3.3). Strides are powers of
    two; below 1 they upsample. The level of stride 1 is the memory itself.
    Raises ValueError for a stride that is not a power of two.

    Used alone, it takes any sequence of any width D (`examples/linen_model.py`):

        pyramid = TemporalFeatureLayering(strides=(1, 4))
        params = pyramid.init(key, memory)["params"]
        levels = pyramid.apply({"params": params}, memory)  # [B, L, D], [B, floor(L / 4), D]
        masks = make_point_mask(mask, pyramid.strides)  # [B, L], [B, floor(L / 4)] bool

    It takes no mask: point i of a level reads positions i * stride to (i + 1) * stride alone, so
    the valid points of `make_point_mask` have read no padding; ignore the others. There is no
    dropout: training and inference are the same.
    """

    strides: Sequence[float]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, memory: Float[Array, "B L D"]) -> list[Float[Array, "B _ D"]]:
        chex.assert_rank(memory, 3)
        levels = []
        for k, stride in enumerate(self.strides):
            power = round(math.log2(stride)) if stride > 0 else 0
            if 2.0**power != stride:
                raise ValueError(
                    f"strides are powers of two (1, 2, 4, ..., or 0.5, ...), not {stride}"
                )
            x = memory
            for i in range(abs(power)):
                name = f"level_{k}_{i}"
                x = PairConvolution(transpose=power < 0, dtype=self.dtype, name=f"{name}_conv")(x)
                x = nn.relu(layer_norm(self.dtype, f"{name}_norm")(x))
            levels.append(x)
        return levels
