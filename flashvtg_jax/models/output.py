"""What the model returns."""

import flax.struct

from flashvtg_jax.typing import Array, Bool, Float, Int


@flax.struct.dataclass
class FlashVTGOutput:
    """Everything FlashVTG computes for a batch, for the losses and the decoding.

    B samples, L clips, P points of all pyramid levels (level after level), D hidden size. Rows and
    positions that are padding hold finite values that mean nothing; the masks say which.

    Moment queries (`moment_head="queries"`) are P points of stride 1 at clip 0, valid in every row
    that is no padding: their offsets are minus the start, and the end, in clips.
    """

    memory: Float[Array, "B L D"]  # fused clips after the ReLU: level 1 of the pyramid
    query_embedding: Float[Array, "B D"]  # attention-pooled words
    intra_scale_logits: Float[Array, "B P"] | None  # score head applied level by level, if any
    inter_scale_logits: Float[Array, "B P"] | None  # score head applied across levels, if any
    logits: Float[Array, "B P"]  # the score; of a pyramid the mix of the two
    offsets: Float[Array, "B P 2"]  # to start and end, in the point's strides; of a pyramid > 0
    points: Float[Array, "P 4"]  # position, regression range low and high, stride, all in clips
    point_mask: Bool[Array, "B P"]
    saliency: Float[Array, "B L"]  # highlight score, unbounded; 0 where padded
    query_attention: Float[Array, "B L"]  # attention that reaches words, in [0, 1]; 0 where padded
    video_mask: Bool[Array, "B L"]
    negative_saliency: Float[Array, "B L"] | None = None  # the same clips, the negative query
    negative_query_attention: Float[Array, "B L"] | None = None
    negative_index: Int[Array, " B"] | None = None  # row of the negative query
    # Of the A earlier layers of the decoder of moment queries, perhaps 0; None for a pyramid, by
    # which the losses distinguish the two.
    auxiliary_logits: Float[Array, "B A P"] | None = None
    auxiliary_offsets: Float[Array, "B A P 2"] | None = None
