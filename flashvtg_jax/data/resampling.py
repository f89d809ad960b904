"""Videos that have the same number of features, whatever their duration, with a row for each clip.

ActivityNet's usual features are 100 or so for a video of 20 s as for one of 200 s. Model, labels
and moments count in clips of one length: a stride of the pyramid means as many seconds in each
video. So the features are resampled to clips where they are read, and nothing else has to know.
"""

import numpy as np

from flashvtg_jax.clips import num_video_clips
from flashvtg_jax.errors import DataError

_MAX_CLIPS = 10**6


def resample(features: np.ndarray, duration: float, clip_length: float) -> np.ndarray:
    """Interpolates features between their centres, which are spread evenly, at those of the clips.

    Args:
      features: [N, width] of any float type; row i is about the i-th of N equal parts of the video.
      duration: of the video, seconds.
      clip_length: seconds.

    Returns:
      [L, width] float32, L the clips of the video. Before the first centre and behind the last one
      a clip has the features of that.

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
    if clips > _MAX_CLIPS:  # before memory is taken for a number that is no duration
        raise DataError(f"a duration of {duration:g} s is {clips} clips of {clip_length:g} s")
    return clips
