"""Finds features without information: zeros or constant, as failed extractions leave them."""

import collections

import numpy as np

from flashvtg_jax.data.build.layout import QUERY

_MAX_SHOWN = 5

ZEROS = "all zeros"
CONSTANT = "the same in every row"
SOME_ZEROS = "zeros in some clips"


def flatness(features: np.ndarray) -> str | None:
    """Returns `ZEROS` or `CONSTANT` for such features [rows, width], None for others."""
    if not features.any():
        return ZEROS
    if len(features) > 1 and (features == features[0]).all():
        return CONSTANT
    return None


class FlatFeatures:
    """Collects such features of a data set, from any thread, while it is written."""

    def __init__(self):
        self._ids: dict[tuple[str, str], list[str]] = collections.defaultdict(list)

    def add(self, name: str, identifier: object, features: np.ndarray) -> None:
        """Checks the features [rows, width] of a video, or of the words of a query.

        Args:
          name: of the stream, or "query".
          identifier: of the video or query.
          features: as they are stored.
        """
        kind = flatness(features)
        # Words without a vector are zeros; clips are not.
        if kind is None and name != QUERY and not features.any(axis=1).all():
            kind = SOME_ZEROS
        if kind is not None:
            self._ids[name, kind].append(str(identifier))

    def notes(self, num_videos: int, num_queries: int) -> list[str]:
        """Returns a note for each stream and problem.

        Args:
          num_videos: videos added.
          num_queries: queries added.
        """
        notes = []
        for (name, kind), ids in sorted(self._ids.items()):
            shown = ", ".join(sorted(ids)[:_MAX_SHOWN]) + ", ..." * (len(ids) > _MAX_SHOWN)
            total = f"{num_queries} queries" if name == QUERY else f"{num_videos} videos"
            notes.append(
                f"note: {name} features are {kind} for {len(ids)} of {total} ({shown}); did their "
                "extraction fail?"
            )
        return notes
