"""What the objective compares the model's output with."""

import flax.struct

from flashvtg_jax.typing import Array, Bool, Float, Int


@flax.struct.dataclass
class Targets:
    """Labels of a batch, padded to static shapes.

    B samples, L clips, M windows, K (positive, negative) clip pairs. Clip indices are those of
    valid clips of the sample; in a padding row of the batch, which does not count, they may be any.
    """

    windows: Float[Array, "B M 2"]  # start and end of the relevant moments in seconds
    window_mask: Bool[Array, "B M"]
    saliency_labels: Float[Array, "B L"]  # 0 (irrelevant) to 12
    positive_clips: Int[Array, "B K"]  # clips that must outscore ...
    negative_clips: Int[Array, "B K"]  # ... these
    video_id: Int[Array, " B"]  # source video; equal numbers are the same video
