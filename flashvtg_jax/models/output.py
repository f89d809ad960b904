"""What the model returns."""

import chex
import flax.struct


@flax.struct.dataclass
class FlashVTGOutput:
    """Everything FlashVTG computes for a batch, for the losses and the decoding.

    B samples, L clips, P points of all pyramid levels (level after level), D hidden size. Rows and
    positions that are padding hold finite values that mean nothing; the masks say which.

    Moment queries (`moment_head="queries"`) are P points of stride 1 at clip 0, valid in every row
    that is no padding: their offsets are minus the start, and the end, in clips.
    """

    memory: chex.Array  # [B, L, D] fused clips after the ReLU: level 1 of the pyramid
    query_embedding: chex.Array  # [B, D] attention-pooled words
    intra_scale_logits: chex.Array | None  # [B, P] score head applied level by level, if there
    inter_scale_logits: chex.Array | None  # [B, P] score head applied across levels, if there
    logits: chex.Array  # [B, P] the score; of a pyramid the mix of the two
    # [B, P, 2] distance to start and end, in strides of the point; of a pyramid > 0
    offsets: chex.Array
    points: chex.Array  # [P, 4] position (clips), regression range low and high (clips), stride
    point_mask: chex.Array  # [B, P] bool
    saliency: chex.Array  # [B, L] highlight score, unbounded; 0 where padded
    query_attention: chex.Array  # [B, L] attention that reaches words, in [0, 1]; 0 where padded
    video_mask: chex.Array  # [B, L] bool
    negative_saliency: chex.Array | None = None  # [B, L] the same clips against another query
    negative_query_attention: chex.Array | None = None  # [B, L]
    negative_index: chex.Array | None = None  # [B] int32, the row whose query was that other one
    # Of the earlier layers of the decoder of moment queries, A of them, perhaps 0; None for a
    # pyramid, from which the losses tell the two.
    auxiliary_logits: chex.Array | None = None  # [B, A, P]
    auxiliary_offsets: chex.Array | None = None  # [B, A, P, 2]
