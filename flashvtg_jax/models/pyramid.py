"""Temporal feature layering: the clips at several temporal resolutions (paper section 3.3)."""

import math
from collections.abc import Sequence

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from flashvtg_jax.models.layers import Dtype, PairConvolution, layer_norm


def level_length(num_clips: int, stride: float) -> int:
    """Points of a level: clips that fit its stride, rounded down (0: the video is too short)."""
    return math.floor(num_clips / stride)


def make_points(num_clips: int, strides: Sequence[float]) -> np.ndarray:
    """Points of all levels: [P, 4] float32 of position, range low, range high (clips) and stride.

    A point regresses the moments whose farther end is within its range; the first level begins at 0
    and the last one has no end.
    """
    lows = [0.0, *strides[1:]]
    highs = [*strides[1:], math.inf]
    rows = [
        (i * stride, low, high, stride)
        for stride, low, high in zip(strides, lows, highs, strict=True)
        for i in range(level_length(num_clips, stride))
    ]
    return np.asarray(rows, np.float32).reshape(-1, 4)


def make_point_mask(mask: chex.Array, strides: Sequence[float]) -> list[chex.Array]:
    """Which points lie within the video: mask [B, L] bool -> per level [B, floor(L / stride)].

    A point is valid if the clips it covers are: (i + 1) * stride <= number of valid clips.
    """
    count = mask.sum(-1)[:, None]
    lengths = [level_length(mask.shape[-1], stride) for stride in strides]
    return [
        (np.arange(length) + 1) * stride <= count
        for length, stride in zip(lengths, strides, strict=True)
    ]


class TemporalFeatureLayering(nn.Module):
    """A pyramid of features, each level with its own convolutions over the same memory.

    memory [B, L, D] -> a list with one [B, floor(L / stride), D] per stride, of
    length 0 where the video is shorter than the stride (paper section 3.3). Strides are powers of
    two; below 1 they upsample. The level of stride 1 is the memory itself.
    Raises ValueError for a stride that is not a power of two.
    """

    strides: Sequence[float] = (1, 2, 4, 8)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, memory: chex.Array) -> list[chex.Array]:
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
                x = PairConvolution(power < 0, self.dtype, name=f"{name}_conv")(x)
                x = nn.relu(layer_norm(self.dtype, f"{name}_norm")(x))
            levels.append(x)
        return levels
