"""Resamples features to clips of one length, for videos with a fixed number of features.

ActivityNet's usual features are about 100 for a video of 20 s as for one of 200 s. Model, labels
and moments need clips of one length: a stride of the pyramid lasts as long in every video. Features
are therefore resampled where they are read, and everything else works on clips.
"""

import numpy as np
from jaxtyping import Float, Float32

from flashvtg_jax.clips import num_video_clips
from flashvtg_jax.errors import DataError

_MAX_CLIPS = 10**6


def resample(
    features: Float[np.ndarray, "N width"], duration: float, clip_length: float
) -> Float32[np.ndarray, "L width"]:
    """Interpolates features linearly, from their centres to the centres of the clips.

    Args:
      features: [N, width] of any float type; row i is about the i-th of N equal parts of the video.
      duration: of the video, seconds.
      clip_length: seconds.

    Returns:
      [L, width] float32 for the L clips of the video. Clips before the first centre or after the
      last one have the features there.

    Raises:
      DataError: a duration of more than a million clips.
    """
    features = np.asarray(features, np.float32)
    starts = np.arange(num_resampled_clips(duration, clip_length)) * clip_length
    centres = (starts + np.minimum(starts + clip_length, duration)) / 2  # the last may be shorter
    places = np.clip(centres * (len(features) / duration) - 0.5, 0, len(features) - 1)
    before = places.astype(np.int64)
    after = np.minimum(before + 1, len(features) - 1)
    share = (places - before).astype(np.float32)[:, None]
    return features[before] * (1 - share) + features[after] * share


def num_resampled_clips(duration: float, clip_length: float) -> int:
    """Returns the clips that features are resampled to; DataError for more than a million."""
    clips = num_video_clips(duration, clip_length)
    if clips > _MAX_CLIPS:  # a wrong duration must not allocate all memory
        raise DataError(f"a duration of {duration:g} s is {clips} clips of {clip_length:g} s")
    return clips
