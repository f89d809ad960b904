"""Generates annotation lines with the format and the statistics of QVHighlights."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from flashvtg_jax.errors import ConfigError

CLIP_LENGTH = 2  # seconds
MAX_CLIPS = 75  # of a video as QVHighlights has them
_STRETCH_SECONDS = MAX_CLIPS * CLIP_LENGTH  # part of a long video that one query is about

# Measured on QVHighlights' 7218 training lines.
_SHARE_OF_FULL_VIDEOS = 0.97  # 150 s; the others last 120 to 148 s
_SHARE_WITH_SECOND_QUERY = 0.02
_VIDEOS_PER_SOURCE = (0.35, 0.15, 0.50)  # 1, 2 or 3 excerpts of one YouTube video
_WINDOWS_PER_QUERY = (0.70, 0.175, 0.065, 0.04, 0.02)
_MEDIAN_CLIPS = (14.0, 7.5, 5.0, 4.0, 3.0)  # of a window, by windows of the query
_LOG_SPREAD = (0.75, 0.95, 1.0, 1.0, 1.0)  # standard deviation of its logarithm
_SHARE_FROM_START = 0.21  # of first windows

_WHO = ("A man", "A woman", "Two friends", "A vlogger", "A chef", "A child", "Some tourists")
_LOOK = ("in a red coat", "with long hair", "wearing glasses", "in a blue shirt", "")
_DOES = ("shows", "cleans", "talks about", "carries", "looks at", "takes apart", "films", "buys")
_WHAT = (
    "a new phone",
    "the food",
    "an old car",
    "her luggage",
    "a wooden table",
    "the dog",
    "maps",
)
_WHERE = ("in the kitchen", "on a beach", "at the airport", "near a lake", "inside a shop")
_HOW = ("while talking to the camera", "as people walk by", "late at night", "")
_ID_CHARACTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))


def generate_annotations(
    num_queries: int, *, seed: int, first_qid: int = 0
) -> list[dict[str, Any]]:
    """Generates annotation lines in QVHighlights' format.

    Videos have 75 clips of 2 s (a few are shorter) and mostly one query, queries 1 to 5 windows.
    Every clip of the windows has three annotators' ratings from 0 to 4, higher in the middle of a
    window.

    Args:
      num_queries: lines to generate.
      seed: of everything random; other seeds give other videos.
      first_qid: id of the first query; the others follow.
    """
    rng = np.random.default_rng([seed, first_qid])
    videos = _videos(rng)
    rows: list[dict[str, Any]] = []
    while len(rows) < num_queries:
        vid, num_clips = next(videos)
        for _ in range(1 + (rng.random() < _SHARE_WITH_SECOND_QUERY)):
            rows.append(_row(rng, first_qid + len(rows), vid, num_clips))
    return rows[:num_queries]


def generate_long_annotations(
    num_queries: int, minutes: float, *, seed: int, first_qid: int = 0
) -> list[dict[str, Any]]:
    """Generates annotation lines in QVHighlights' format about videos of any length.

    A video has one query for each 2.5 minutes, so moments are equally dense at each length. Each
    query has a random stretch of 2.5 minutes for itself, with windows as `generate_annotations`
    draws them. A seed gives the same queries, windows and ratings at each length, only in other
    stretches: videos differ in nothing but their length.

    Args:
      num_queries: lines to generate.
      minutes: of each video.
      seed: of everything random.
      first_qid: id of the first query; the others follow.

    Returns:
      The lines, ordered by qid.

    Raises:
      ConfigError: videos that are not a multiple of 2.5 minutes, or queries that do not fill the
        last of them.
    """
    stretches = round(minutes * 60 / _STRETCH_SECONDS)
    if stretches < 1 or stretches * _STRETCH_SECONDS != minutes * 60:
        raise ConfigError(
            f"videos of {minutes:g} minutes; expected a multiple of {_STRETCH_SECONDS / 60:g}"
        )
    if num_queries < 1 or num_queries % stretches:
        raise ConfigError(
            f"{num_queries} queries; expected a multiple of {stretches}, which a video of "
            f"{minutes:g} minutes has"
        )
    # The third number makes these generators differ from those of `generate_annotations`.
    rng = np.random.default_rng([seed, first_qid, 1])
    place_rng = np.random.default_rng([seed, first_qid, 2, stretches])
    duration = stretches * _STRETCH_SECONDS
    vids = [
        f"{''.join(place_rng.choice(_ID_CHARACTERS, 11))}_0.0_{duration:.1f}"
        for _ in range(num_queries // stretches)
    ]
    rows = []
    for position, place in enumerate(place_rng.permutation(num_queries).tolist()):
        video, stretch = divmod(place, stretches)
        row = _row(rng, first_qid + position, vids[video], MAX_CLIPS)
        rows.append(_moved(row, stretch * MAX_CLIPS) | {"duration": duration})
    return rows


def _moved(row: dict[str, Any], clips: int) -> dict[str, Any]:
    """Returns an annotation line with its moments moved back by some clips."""
    seconds = clips * CLIP_LENGTH
    return row | {
        "relevant_clip_ids": [clip + clips for clip in row["relevant_clip_ids"]],
        "relevant_windows": [[a + seconds, b + seconds] for a, b in row["relevant_windows"]],
    }


def _videos(rng: np.random.Generator) -> Iterator[tuple[str, int]]:
    """Yields (vid, number of clips), excerpts of one source after the other."""
    while True:
        source = "".join(rng.choice(_ID_CHARACTERS, 11))
        for excerpt in range(1 + rng.choice(3, p=_VIDEOS_PER_SOURCE)):
            full = rng.random() < _SHARE_OF_FULL_VIDEOS
            num_clips = MAX_CLIPS if full else int(rng.integers(60, MAX_CLIPS))
            start = 60.0 + 150.0 * excerpt
            yield f"{source}_{start}_{start + 150.0}", num_clips


def _row(rng: np.random.Generator, qid: int, vid: str, num_clips: int) -> dict[str, Any]:
    windows = _windows(rng, num_clips)
    clip_ids = np.concatenate([np.arange(start, end) for start, end in windows])
    return {
        "qid": qid,
        "query": _sentence(rng),
        "duration": num_clips * CLIP_LENGTH,
        "vid": vid,
        "relevant_clip_ids": clip_ids.tolist(),
        "saliency_scores": _ratings(rng, windows).tolist(),
        "relevant_windows": [[int(a) * CLIP_LENGTH, int(b) * CLIP_LENGTH] for a, b in windows],
    }


def _windows(rng: np.random.Generator, num_clips: int) -> list[tuple[int, int]]:
    """Draws windows [start, end) in clips, in order, at least a clip apart."""
    count = 1 + int(rng.choice(5, p=_WINDOWS_PER_QUERY))
    spread = np.exp(_LOG_SPREAD[count - 1] * rng.standard_normal(count))
    lengths = np.clip(np.rint(_MEDIAN_CLIPS[count - 1] * spread), 1, num_clips).astype(int)
    while lengths.sum() + count - 1 > num_clips:
        lengths[lengths.argmax()] -= 1
    # The rest is divided among the gaps: before, between (a clip more each) and after windows.
    free = num_clips - lengths.sum() - (count - 1)
    shares = rng.dirichlet(np.ones(count + 1))
    if rng.random() < _SHARE_FROM_START:
        shares[0] = 0.0
    gaps = rng.multinomial(free, shares / shares.sum())
    starts = np.cumsum(gaps[:count] + 1) - 1 + np.cumsum(lengths) - lengths
    return [
        (int(start), int(start + length)) for start, length in zip(starts, lengths, strict=True)
    ]


def _ratings(rng: np.random.Generator, windows: list[tuple[int, int]]) -> np.ndarray:
    """Draws three annotators' ratings 0..4 of all clips in the windows, [clips, 3]."""
    level = 3.0 + 0.7 * rng.standard_normal(3)  # annotators differ in their level
    parts = []
    for start, end in windows:
        position = (np.arange(end - start) + 0.5) / (end - start)
        middle = np.sin(np.pi * position) - 0.5
        parts.append(middle[:, None] + level + 0.4 * rng.standard_normal((end - start, 3)))
    return np.clip(np.rint(np.concatenate(parts)), 0, 4).astype(int)


def _sentence(rng: np.random.Generator) -> str:
    parts = (str(rng.choice(words)) for words in (_WHO, _LOOK, _DOES, _WHAT, _WHERE, _HOW))
    return " ".join(part for part in parts if part) + "."
