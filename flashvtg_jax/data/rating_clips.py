"""Clips that ids and ratings count, where they are not those of the features."""

import math

import numpy as np

Rated = tuple[np.ndarray, np.ndarray, np.ndarray]


def rate_clips(clip_ids: np.ndarray, sums: np.ndarray, num_clips: int, ratio: float) -> Rated:
    """Returns the relevant clips of a video, their labels, and the labels of all its clips.

    A clip's label is the mean of the rating clips that it overlaps, by the time of each, 0 for
    those not rated. Relevant are the clips of which rated ones cover half or more; if there is no
    such clip, the one that they cover most. Clips of equal length keep their ratings to the digit.

    Args:
      clip_ids: [n] relevant rating clips, one or more; those beyond the video stand for its last.
      sums: [n] their ratings, of any float type, which the labels have as well. Of several ratings
        of one clip the highest counts.
      num_clips: clips of the video, L.
      ratio: rating clips in a clip: seconds of a clip / seconds that ids count.

    Returns:
      clip_ids [m], sums [m], labels [L].
    """
    num_rated = num_clips if ratio == 1 else max(1, math.ceil(num_clips * ratio - 1e-6))
    clip_ids = np.minimum(clip_ids, num_rated - 1)
    ratings = np.zeros(num_rated, sums.dtype)
    # Several ids can stand for the last clip: the highest sum keeps the positive clip on top.
    np.maximum.at(ratings, clip_ids, sums)
    if ratio == 1:
        return clip_ids, sums, ratings
    edges = np.minimum(np.arange(num_clips + 1) * ratio, num_rated)

    def clip_means(values: np.ndarray) -> np.ndarray:
        sums_before = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        return np.diff(np.interp(edges, np.arange(num_rated + 1), sums_before)) / ratio

    is_relevant = np.zeros(num_rated)
    is_relevant[clip_ids] = 1.0
    covered = clip_means(is_relevant)
    relevant = np.flatnonzero(covered >= 0.5 - 1e-6)
    if not relevant.size:
        relevant = np.array([covered.argmax()])
    labels = clip_means(ratings).astype(sums.dtype)
    return relevant, labels[relevant], labels
