"""Videos that have the same number of features, whatever their duration, with a row for each clip.

ActivityNet's usual features are 100 or so for a video of 20 s as for one of 200 s. Model, labels
and moments count in clips of one length: a stride of the pyramid means as many seconds in each
video. So the features are resampled to clips where they are read, and nothing else has to know.
"""

import dataclasses
from pathlib import Path

import numpy as np

from flashvtg_jax.clips import num_video_clips
from flashvtg_jax.data.build.layout import Found, Item, Row
from flashvtg_jax.data.features import WITHOUT_BATCH_AXIS, FeatureHeader
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
    starts = np.arange(_num_clips(duration, clip_length)) * clip_length
    centres = (starts + np.minimum(starts + clip_length, duration)) / 2  # the last may be shorter
    places = np.clip(centres * (len(features) / duration) - 0.5, 0, len(features) - 1)
    before = places.astype(np.int64)
    after = np.minimum(before + 1, len(features) - 1)
    share = (places - before).astype(np.float32)[:, None]
    return features[before] * (1 - share) + features[after] * share


def _num_clips(duration: float, clip_length: float) -> int:
    clips = num_video_clips(duration, clip_length)
    if clips > _MAX_CLIPS:  # before memory is taken for a number that is no duration
        raise DataError(f"a duration of {duration:g} s is {clips} clips of {clip_length:g} s")
    return clips


@dataclasses.dataclass(frozen=True)
class ResampledItem:
    """The features of one video, which lasts `duration` seconds, as a row for each clip."""

    item: Item
    duration: float
    clip_length: float

    def header(self, width: int | None) -> FeatureHeader:
        """Returns the clips, and width and tokens of the features, in float32.

        Raises:
          DataError: as the features' own header; a single row of many tokens.
        """
        found = self.item.header(width)
        if found.rows == 1 and found.tokens > 1:
            raise DataError(
                f"{self}: shape [1, {found.tokens}, {found.width}]. {WITHOUT_BATCH_AXIS}"
            )
        rows = _num_clips(self.duration, self.clip_length)
        return FeatureHeader(rows, found.width, np.dtype(np.float32), found.tokens)

    def read(self, width: int | None) -> np.ndarray:
        """Returns [L, tokens * width] float32; DataError as the features' own."""
        return resample(self.item.read(width), self.duration, self.clip_length)

    def __str__(self) -> str:
        return str(self.item)


@dataclasses.dataclass(frozen=True)
class FoundResampled:
    """The features of a stream, resampled."""

    found: Found
    clip_length: float

    def item(self, row: Row) -> ResampledItem | None:
        """Returns the features of an annotation line, None where something is missing."""
        item = self.found.item(row)
        return item and ResampledItem(item, row["duration"], self.clip_length)

    def missing(self, row: Row) -> list[Path]:
        """Returns the files that an annotation line needs and that are not there."""
        return self.found.missing(row)
