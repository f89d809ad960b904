"""Feature files that are resampled to clips as they are read."""

import dataclasses
from pathlib import Path

import numpy as np

from flashvtg_jax.data.build.layout import Found, Item, Row
from flashvtg_jax.data.feature_files import WITHOUT_BATCH_AXIS, FeatureHeader
from flashvtg_jax.data.resampling import num_resampled_clips, resample
from flashvtg_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class ResampledItem:
    """The features of a video of `duration` seconds, with a row for each clip."""

    item: Item
    duration: float
    clip_length: float

    def header(self, width: int | None) -> FeatureHeader:
        """Returns the header after resampling, float32.

        Raises:
          DataError: as the header of the features; a single row of many tokens.
        """
        found = self.item.header(width)
        if found.rows == 1 and found.tokens > 1:
            raise DataError(
                f"{self}: shape [1, {found.tokens}, {found.width}]. {WITHOUT_BATCH_AXIS}"
            )
        rows = num_resampled_clips(self.duration, self.clip_length)
        return FeatureHeader(rows, found.width, np.dtype(np.float32), found.tokens)

    def read(self, width: int | None) -> np.ndarray:
        """Returns [L, tokens * width] float32; DataError as the features."""
        return resample(self.item.read(width), self.duration, self.clip_length)

    def __str__(self) -> str:
        return str(self.item)


@dataclasses.dataclass(frozen=True)
class FoundResampled:
    """The features of a stream, resampled."""

    found: Found
    clip_length: float

    def item(self, row: Row) -> ResampledItem | None:
        """Returns the features for an annotation line, None if a file is missing."""
        item = self.found.item(row)
        return item and ResampledItem(item, row["duration"], self.clip_length)

    def missing(self, row: Row) -> list[Path]:
        """Returns the missing files of an annotation line."""
        return self.found.missing(row)
