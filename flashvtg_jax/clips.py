"""Clips of a video: their number, their ids and ratings, whether lengths agree."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# Lengths that ids may count by mistake, as multiples of the length that they should count.
_OTHER_LENGTHS = (*(1 / n for n in (8, 6, 5, 4, 3, 2)), 2, 3, 4, 5, 6, 8)
_NEARLY_ALL = 0.9
_FEW = 3  # ids of a line, or lines of a file, that agree with another length by chance

Rated = tuple[np.ndarray, np.ndarray, np.ndarray]


def num_video_clips(duration: float, clip_length: float) -> int:
    """Returns the clips of a video of `duration` seconds, the last one perhaps not full."""
    return max(1, math.ceil(duration / clip_length - 1e-6))


def lengths_agree(one: int, other: int, clips: int = 2) -> bool:
    """Returns whether two numbers of clips differ by no more than `clips`, or 10%."""
    return abs(one - other) <= max(clips, 0.1 * max(one, other))


def rate_clips(
    clip_ids: np.ndarray,
    sums: np.ndarray,
    num_clips: int,
    duration: float,
    clip_length: float,
    label_clip_length: float,
) -> Rated:
    """Returns the relevant clips of a video, their labels, and the labels of all its clips.

    A clip's label is the mean of the rating clips that it overlaps, by the time of each, 0 for
    those not rated. Relevant are the clips of which rated ones cover half or more; if there is no
    such clip, the one that they cover most. Clips of equal length keep their ratings to the digit.

    Args:
      clip_ids: [n] relevant rating clips, one or more; those beyond the video stand for its last.
      sums: [n] their ratings, of any float type, which the labels have as well. Of several ratings
        of one clip the highest counts.
      num_clips: clips of the video, L.
      duration: of the video, seconds.
      clip_length: seconds of a clip.
      label_clip_length: seconds of a rating clip.

    Returns:
      clip_ids [m], sums [m], labels [L].
    """
    is_same, num_rated = clip_length == label_clip_length, num_clips
    if not is_same:
        end = min(duration, num_clips * clip_length)
        num_rated = num_video_clips(end, label_clip_length)
    clip_ids = np.minimum(clip_ids, num_rated - 1)
    ratings = np.zeros(num_rated, sums.dtype)
    # Several ids can stand for the last clip: the highest sum keeps the positive clip on top.
    np.maximum.at(ratings, clip_ids, sums)
    if is_same:
        return clip_ids, sums, ratings
    edges = np.minimum(np.arange(num_clips + 1) * (clip_length / label_clip_length), num_rated)
    lasts = np.diff(edges)  # the last clip may end after the last rating clip

    def clip_means(values: np.ndarray) -> np.ndarray:
        sums_before = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        integral = np.diff(np.interp(edges, np.arange(num_rated + 1), sums_before))
        return np.divide(integral, lasts, out=np.zeros(num_clips), where=lasts > 1e-6)

    is_relevant = np.zeros(num_rated)
    is_relevant[clip_ids] = 1.0
    covered = clip_means(is_relevant)
    relevant = np.flatnonzero(covered >= 0.5 - 1e-6)
    if not relevant.size:
        relevant = np.array([covered.argmax()])
    labels = clip_means(ratings).astype(sums.dtype)
    return relevant, labels[relevant], labels


def mean_ratings(
    clip_ids: Sequence[int],
    scores: Sequence[Sequence[float]],
    duration: float,
    clip_length: float,
    label_clip_length: float | None = None,
) -> np.ndarray:
    """Returns the mean rating of each clip [L], 0 where nobody rated, for drawings.

    As in training, an id beyond the video stands for its last clip, of several ratings of one clip
    the highest sum counts, and ids may count clips of another length.

    Args:
      clip_ids: [N] from 0, one or more.
      scores: [N, annotators], one list of ratings for each id.
      duration: of the video, seconds.
      clip_length: seconds of a clip.
      label_clip_length: seconds of the clips that ids count; None: `clip_length`.
    """
    ids, means = np.asarray(clip_ids, np.int64), np.mean(scores, axis=1)
    num_clips = num_video_clips(duration, clip_length)
    rated = label_clip_length or clip_length
    return rate_clips(ids, means, num_clips, duration, clip_length, rated)[2]


def clip_id_problem(
    clip_ids: Sequence[int], windows: Sequence[Sequence[float]], clip_length: float
) -> str | None:
    """Returns what is wrong if clip ids contradict the windows of their line, with the cause.

    They do if more than half of them touch no window. Ids of some clips of the windows only are no
    contradiction: people may have rated no more.

    Args:
      clip_ids: from 0.
      windows: [start, end], seconds.
      clip_length: seconds that the ids count.
    """
    if not clip_ids or not windows:
        return None
    ids = set(clip_ids)
    outside = [i for i in ids if not _touches(i, windows, clip_length)]
    if 2 * len(outside) <= len(ids):
        return None
    first = min(outside)
    spans = ", ".join(f"{start:g} to {end:g}" for start, end in windows[:3])
    return (
        f"relevant_clip_ids contradict relevant_windows: clip {first} of {clip_length:g} s is at "
        f"{first * clip_length:g} to {(first + 1) * clip_length:g} s, the windows are at {spans}"
        f"{', ...' if len(windows) > 3 else ''} s"
    ) + length_hint(other_length(ids, windows, clip_length), clip_length)


def label_length_problem(rows: Iterable[Mapping[str, Any]], clip_length: float) -> str | None:
    """Returns what is wrong if the ids of most lines count clips longer than they should.

    Such ids may all lie in their windows, so that no line alone shows it: half of the clips of a
    window at the beginning of a video look like clips of which people rated some only.

    Args:
      rows: annotation lines, without other problems.
      clip_length: seconds that the ids should count.
    """
    both = ((row.get("relevant_clip_ids"), row.get("relevant_windows")) for row in rows)
    lengths = [
        other_length(set(ids), windows, clip_length) for ids, windows in both if ids and windows
    ]
    ((length, count),) = Counter(lengths).most_common(1) or [(None, 0)]
    if length is None or count < _FEW or 2 * count <= len(lengths):
        return None
    return (
        f"in {count} of {len(lengths)} lines relevant_clip_ids are less than half of the clips of "
        f"{clip_length:g} s in relevant_windows, but nearly all of those of {length:g} s"
    ) + length_hint(length, clip_length)


def length_hint(other: float | None, clip_length: float) -> str:
    """Returns the end of an error about ids that may count clips of another length."""
    if other is None:
        return "; correct the ids, which count from 0, or the windows"
    return (
        f". The ids look like clips of {other:g} s, not of {clip_length:g} s: set clip_length="
        f"{other:g} if a row of the features lasts that long, else label_clip_length={other:g} "
        f"(build --label_clip_length={other:g}, train --config.data.label_clip_length={other:g})"
    )


def other_length(
    clip_ids: set[int], windows: Sequence[Sequence[float]], clip_length: float
) -> float | None:
    """Returns another clip length by which ids are the clips of the windows; None if none is.

    None, too, for so few ids that it may be by chance.
    """
    if len(clip_ids) < _FEW or _agreement(clip_ids, windows, clip_length) > 0.5:
        return None
    lengths = [clip_length * factor for factor in _OTHER_LENGTHS]
    best = max(lengths, key=lambda length: _agreement(clip_ids, windows, length))
    return best if _agreement(clip_ids, windows, best) >= _NEARLY_ALL else None


def _touches(clip: int, windows: Sequence[Sequence[float]], clip_length: float) -> bool:
    start, slack = clip * clip_length, 1e-3
    return any(a - slack <= start + clip_length and start <= b + slack for a, b in windows)


def _agreement(clip_ids: set[int], windows: Sequence[Sequence[float]], clip_length: float) -> float:
    """Returns the clips that are both among the ids and in windows, as a share of all of them."""
    covered = {
        clip
        for start, end in windows
        for clip in range(
            math.floor(start / clip_length + 1e-6), math.ceil(end / clip_length - 1e-6)
        )
    }
    return len(clip_ids & covered) / len(clip_ids | covered)
