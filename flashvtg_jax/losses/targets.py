"""What the objective compares the model's output with."""

import chex
import flax.struct


@flax.struct.dataclass
class Targets:
    """Labels of a batch, padded to static shapes.

    B samples, L clips, M windows, K (positive, negative) clip pairs. Clip indices name valid clips
    of their sample (any index in a padding row of the batch, which takes part in nothing).
    """

    windows: chex.Array  # [B, M, 2] float32, start and end of the relevant moments in seconds
    window_mask: chex.Array  # [B, M] bool
    saliency_labels: chex.Array  # [B, L] float32, 0 (irrelevant) to 12
    positive_clips: chex.Array  # [B, K] int32, clips that must outscore ...
    negative_clips: chex.Array  # [B, K] int32, ... these
    video_id: chex.Array  # [B] int32, source video; equal numbers are the same video
