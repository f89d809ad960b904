"""Feature files that are resampled where they are read, with a row for each clip."""

import dataclasses
from pathlib import Path

import numpy as np

from flashvtg_jax.data.build.layout import Found, Item, Row
from flashvtg_jax.data.feature_files import WITHOUT_BATCH_AXIS, FeatureHeader
from flashvtg_jax.data.resampling import num_resampled_clips, resample
from flashvtg_jax.errors import DataError


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
        rows = num_resampled_clips(self.duration, self.clip_length)
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
