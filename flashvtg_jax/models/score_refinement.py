"""Adaptive score refinement: scores within and across levels, mixed (paper section 3.4)."""

from collections.abc import Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from flashvtg_jax.models.layers import Convolution, Dtype, dense
from flashvtg_jax.typing import Array, Bool, Float, Int, Shaped, Size

MIXES = ("learned", "fixed", "intra", "inter")


def join_levels(
    levels: Sequence[Shaped[Array, "B _ *rest"]], gap: int
) -> Shaped[Array, "B _ *rest"]:
    """Concatenate [B, L_k, ...] along time with `gap` zeros between: one array for one convolution.

    With a gap of half a kernel no window of a level reaches another level.
    """
    pad = [(0, 0), (0, gap)] + [(0, 0)] * (levels[0].ndim - 2)
    padded = [jnp.pad(level, pad) for level in levels[:-1]]
    return jnp.concatenate([*padded, levels[-1]], axis=1)


def split_levels(
    joined: Shaped[Array, "B _ *rest"], lengths: Sequence[Size], gap: int
) -> list[Shaped[Array, "B _ *rest"]]:
    """Undo `join_levels`: [B, sum of lengths and gaps, ...] -> a list of [B, L_k, ...]."""
    levels, start = [], 0
    for length in lengths:
        levels.append(joined[:, start : start + length])
        start += length + gap
    return levels


@jax.custom_vjp
def permute(
    x: Float[Array, "B P D"], order: Int[Array, "B P"], inverse: Int[Array, "B P"]
) -> Float[Array, "B P D"]:
    """Reorder time: x [B, P, D], order and its inverse [B, P] -> out[b, i] = x[b, order[b, i]].

    The gradient is the inverse reordering, a gather again: the scatter that automatic
    differentiation would write is much slower.
    """
    return jnp.take_along_axis(x, order[..., None], axis=1)


def _permute_forward(x: Array, order: Array, inverse: Array):
    return permute(x, order, inverse), (order, inverse)


def _permute_backward(residuals: tuple[Array, Array], gradient: Array):
    order, inverse = residuals
    return permute(gradient, inverse, order), None, None


permute.defvjp(_permute_forward, _permute_backward)


class ScoreHead(nn.Module, kw_only=True):
    """Convolutions and a small MLP to one logit: x [B, P, D], mask [B, P] -> [B, P] float32."""

    kernel_size: int
    num_conv_layers: int
    num_mlp_layers: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B P D"], mask: Bool[Array, "B P"]) -> Float[Array, "B P"]:
        width = x.shape[-1]
        for i in range(self.num_conv_layers):
            conv = Convolution(
                features=width, kernel_size=self.kernel_size, dtype=self.dtype, name=f"conv_{i}"
            )
            x = nn.relu(conv(x, mask))
        for i in range(self.num_mlp_layers - 1):
            hidden = width // 2
            x = nn.relu(dense(hidden, x.shape[-1], dtype=self.dtype, name=f"dense_{i}")(x))
        last = f"dense_{self.num_mlp_layers - 1}"
        return dense(1, x.shape[-1], dtype=jnp.float32, name=last)(x)[..., 0]


class AdaptiveScoreRefinement(nn.Module, kw_only=True):
    """Two score heads, within and across levels, and their learned mix (paper section 3.4).

    levels: per level [B, L_k, D]; masks: per level [B, L_k] bool, valid points first
    -> (logits, intra_scale_logits, inter_scale_logits), each [B, P] float32 with P the sum of L_k.

    For ablations `mix` is "fixed", half of each, or "intra" or "inter", that head alone; the other
    one does not exist, and its logits are None.

    Across levels the convolution sees the last valid point of a level next to the first of the
    following one, wherever the padding lies: the points are packed before it and unpacked after it.

    Used alone, it scores the points of any pyramid, or of one sequence as its only level
    (`examples/linen_model.py`); levels may have any lengths and
    share one width D:

        refinement = AdaptiveScoreRefinement(
            kernel_size=3, num_conv_layers=1, num_mlp_layers=2
        )
        params = refinement.init(key, levels, masks)["params"]
        logits, _, _ = refinement.apply({"params": params}, levels, masks)  # [B, P], level by level

    Logits of masked points are finite and mean nothing: leave them out of losses and rankings.
    `kernel_size` is odd. There is no dropout: training and inference are the same.
    Raises AssertionError for arrays of other ranks, ValueError for another `mix`.
    """

    kernel_size: int
    num_conv_layers: int
    num_mlp_layers: int
    dtype: Dtype = jnp.float32
    mix: str = "learned"

    @nn.compact
    def __call__(
        self, levels: Sequence[Float[Array, "B _ D"]], masks: Sequence[Bool[Array, "B _"]]
    ) -> tuple[Float[Array, "B P"], Float[Array, "B P"] | None, Float[Array, "B P"] | None]:
        chex.assert_rank(list(levels), 3)
        chex.assert_rank(list(masks), 2)
        if self.mix not in MIXES:
            raise ValueError(f"mix is one of {', '.join(MIXES)}, not {self.mix!r}")
        if self.mix == "intra":
            intra = self._within_levels(levels, masks)
            return intra, intra, None
        if self.mix == "inter":
            inter = self._across_levels(levels, masks)
            return inter, None, inter
        intra, inter = self._within_levels(levels, masks), self._across_levels(levels, masks)
        share: Array | float = 0.5
        if self.mix == "learned":
            share = self.param("mix", nn.initializers.constant(share), (), jnp.float32)
        return share * intra + (1 - share) * inter, intra, inter

    def _score_head(self, name: str) -> ScoreHead:
        return ScoreHead(
            kernel_size=self.kernel_size,
            num_conv_layers=self.num_conv_layers,
            num_mlp_layers=self.num_mlp_layers,
            dtype=self.dtype,
            name=name,
        )

    def _within_levels(
        self, levels: Sequence[Float[Array, "B _ D"]], masks: Sequence[Bool[Array, "B _"]]
    ) -> Float[Array, "B P"]:
        lengths, gap = [level.shape[1] for level in levels], self.kernel_size // 2
        head = self._score_head("intra_scale")
        intra = head(join_levels(levels, gap), join_levels(masks, gap))
        return jnp.concatenate(split_levels(intra, lengths, gap), axis=1)

    def _across_levels(
        self, levels: Sequence[Float[Array, "B _ D"]], masks: Sequence[Bool[Array, "B _"]]
    ) -> Float[Array, "B P"]:
        mask = jnp.concatenate(masks, axis=1)
        order = jnp.argsort(~mask, axis=1, stable=True)
        inverse = jnp.argsort(order, axis=1)
        packed = permute(jnp.concatenate(levels, axis=1), order, inverse)
        packed_mask = jnp.take_along_axis(mask, order, axis=1)
        inter = self._score_head("inter_scale")(packed, packed_mask)
        return jnp.take_along_axis(inter, inverse, axis=1)
