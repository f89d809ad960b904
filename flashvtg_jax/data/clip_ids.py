"""Whether the clip ids of a line agree with its windows, or count clips of another length."""

import math
from collections.abc import Sequence

# Lengths that ids may count by mistake, as multiples of the length that they should count.
_OTHER_LENGTHS = (*(1 / n for n in (8, 6, 5, 4, 3, 2)), 2, 3, 4, 5, 6, 8)
_NEARLY_ALL = 0.9
_FEW = 3  # ids, that agree with many lengths by chance


def id_problem(
    clip_ids: Sequence[int], windows: Sequence[Sequence[float]], clip_length: float
) -> str | None:
    """Returns what is wrong if clip ids contradict the windows of their line, with the cause.

    They do if half of them or more touch no window; or if they are not even half of the clips of
    the windows and would be all of them by another clip length. Fewer ids than clips of the windows
    are no contradiction: people may have rated some only.

    Args:
      clip_ids: from 0.
      windows: [start, end], seconds.
      clip_length: seconds that the ids count.
    """
    if not clip_ids or not windows:
        return None
    ids = set(clip_ids)
    outside = [i for i in sorted(ids) if not _touches(i, windows, clip_length)]
    other = other_length(ids, windows, clip_length)
    if 2 * len(outside) < len(ids) and other is None:
        return None
    first = min(outside or ids)
    spans = ", ".join(f"{start:g} to {end:g}" for start, end in windows[:3])
    problem = (
        f"relevant_clip_ids contradict relevant_windows: clip {first} of {clip_length:g} s is at "
        f"{first * clip_length:g} to {(first + 1) * clip_length:g} s, the windows are at {spans}"
        f"{', ...' if len(windows) > 3 else ''} s"
    )
    return problem + length_hint(other, clip_length)


def length_hint(other: float | None, clip_length: float) -> str:
    """Returns the end of an error about ids that look like clips of another length, or None."""
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

    Or if that may be by chance, of few ids.
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
