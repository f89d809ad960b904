"""Cuts annotation lines to their videos, for `build --clip_windows`."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from flashvtg_jax.clips import num_video_clips
from flashvtg_jax.data.annotations import is_number, latest_end
from flashvtg_jax.json_lines import Row

CUT, LEFT_OUT = "moments cut to their video", "moments left out"
QUERY_LEFT_OUT, UNRATED = "queries left out", "ratings after the end of the video left out"


class Change(NamedTuple):
    """A change of a line.

    kind: one of the kinds above.
    text: place, change and reason.
    count: moments, queries or ratings changed.
    """

    kind: str
    text: str
    count: int = 1


def clip_lines(
    path: str | os.PathLike, rows: Sequence[Row], clip_length: float, label_clip_length: float
) -> tuple[list[Row], list[Change]]:
    """Cuts moments and ratings to their videos, in place; other problems of lines stay.

    Moments that are empty, reversed or outside their video are left out, and queries without other
    moments.

    Args:
      path: of the file, for the texts.
      rows: its lines.
      clip_length: seconds.
      label_clip_length: seconds of the clips that `relevant_clip_ids` count.

    Returns:
      The remaining lines, and the changes.
    """
    kept, changes = [], []
    for row in rows:
        place, duration = f"{path}:{row.line}", row.get("duration")
        if not (is_number(duration) and duration > 0):
            kept.append(row)
            continue
        done = _clip_windows(row, duration, clip_length)
        reasons = [text for kind, text in done if kind == LEFT_OUT]
        if reasons and not row["relevant_windows"]:
            text = f"{place}: query {row.get('qid')} is left out: {'; '.join(reasons)}"
            changes.append(Change(QUERY_LEFT_OUT, text))
            continue
        changes += [Change(kind, f"{place}: {text}") for kind, text in done]
        if count := _clip_ratings(row, num_video_clips(duration, label_clip_length)):
            text = f"{place}: {count} clip ids are after its video of {duration} s"
            changes.append(Change(UNRATED, text, count))
        kept.append(row)
    return kept, changes


def _clip_windows(row: Row, duration: float, clip_length: float) -> list[tuple[str, str]]:
    """Cuts the windows of a line and returns the changes: kind and text."""
    windows, done, kept = row.get("relevant_windows"), [], []
    if not isinstance(windows, list):
        return done
    for window in windows:
        if isinstance(window, list) and len(window) == 2 and all(map(is_number, window)):
            is_late = window[1] > latest_end(duration, clip_length)
            inside = [max(window[0], 0), duration if is_late else window[1]]
            if problem := unusable(window):
                done.append((LEFT_OUT, f"window {window} {problem}"))
                continue
            if inside[0] >= inside[1]:
                done.append((LEFT_OUT, f"window {window} is outside its video of {duration} s"))
                continue
            if inside != window:
                done.append((CUT, f"window {window} is cut to {inside}"))
            window = inside
        kept.append(window)
    row["relevant_windows"] = kept
    return done


def _clip_ratings(row: Row, num_clips: int) -> int:
    """Removes ids after the last clip and their ratings; returns how many."""
    fields: list[Any] = [row.get("relevant_clip_ids"), row.get("saliency_scores")]
    if not all(isinstance(field, list) for field in fields) or len(fields[0]) != len(fields[1]):
        return 0
    kept = [pair for pair in zip(*fields, strict=True) if not _is_after(pair[0], num_clips)]
    count = len(fields[0]) - len(kept)
    if count:
        row["relevant_clip_ids"] = [clip for clip, _ in kept]
        row["saliency_scores"] = [ratings for _, ratings in kept]
    return count


def _is_after(clip: Any, num_clips: int) -> bool:
    return isinstance(clip, int) and not isinstance(clip, bool) and clip >= num_clips


def unusable(window: Sequence[float]) -> str:
    """Returns why a window [start, end] is no moment of any video; "" if it may be one."""
    start, end = window
    return "is empty" if start == end else "is reversed" if start > end else ""
