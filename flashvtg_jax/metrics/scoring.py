"""Settings of scoring: lengths of clips, ranges of moments' lengths."""

import dataclasses
import math
import numbers
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from flashvtg_jax.clips import lengths_agree, num_video_clips
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.metrics.moment_retrieval import FULL_RANGE, LENGTH_RANGES, LengthRanges
from flashvtg_jax.metrics.names import SECTIONS

CLIP_LENGTH = 2.0  # seconds, of QVHighlights

_RANGE_NAME = re.compile(r"[\w.-]+")
_NEARLY_ALL = 0.9  # of the queries
_NEAR = 2  # clips by which features are often longer or shorter than their video


@dataclasses.dataclass(frozen=True)
class Scoring:
    """The settings of scoring.

    Attributes:
      clip_length: seconds of the clips that saliency was predicted for.
      label_clip_length: seconds of the clips that people rated; None: `clip_length`.
      max_clips: of a video that saliency was predicted for, at most; None: all.
      length_ranges: of moments, in seconds by name: lower end excluded, upper end included; "full"
        is among them.
    """

    clip_length: float = CLIP_LENGTH
    label_clip_length: float | None = None
    max_clips: int | None = None
    length_ranges: LengthRanges = dataclasses.field(default_factory=lambda: LENGTH_RANGES)

    def __post_init__(self):
        for name, seconds in (
            ("clip_length", self.clip_length),
            ("label_clip_length", self.rated_clip_length),
        ):
            if not (isinstance(seconds, numbers.Real) and 0 < seconds < math.inf):
                raise DataError(f"{name} is {seconds!r}; expected seconds above 0")

    @property
    def rated_clip_length(self) -> float:
        """Seconds of the clips that people rated."""
        return self.clip_length if self.label_clip_length is None else self.label_clip_length

    def cuts(self, duration: float) -> bool:
        """Whether a video of `duration` seconds has more clips than `max_clips`."""
        clips = num_video_clips(duration, self.clip_length)
        return self.max_clips is not None and clips > self.max_clips


def parse_length_ranges(texts: str | Sequence[str]) -> dict[str, tuple[float, float]]:
    """Ranges of lengths from text: "short:0:10,long:10:inf", or a sequence of its parts.

    Raises:
      ConfigError: text of another form.
    """
    parts = texts.split(",") if isinstance(texts, str) else texts
    ranges = {}
    for part in parts:
        name, *ends = str(part).strip().split(":")
        try:
            low, high = map(float, ends)
        except ValueError as error:
            raise ConfigError(
                f"length_ranges: {part!r}; expected NAME:SECONDS:SECONDS, as short:0:10, separated "
                "by commas"
            ) from error
        if name in ranges:
            raise ConfigError(f"length_ranges names {name!r} twice")
        ranges[name] = low, high
    return ranges


def all_length_ranges(ranges: LengthRanges | None) -> LengthRanges:
    """The range of all moments and the given ones, or the official ones for None.

    Raises:
      ConfigError: a name that cannot be part of a metric's, or ends that are not a range.
    """
    if ranges is None:
        return LENGTH_RANGES
    for name, (low, high) in ranges.items():
        if not _RANGE_NAME.fullmatch(name) or name == FULL_RANGE:
            raise ConfigError(
                f"length_ranges: {name!r} cannot be the name of a range; take letters, digits, _ . "
                f"and -; {FULL_RANGE!r} is the range of all moments"
            )
        if name in SECTIONS:
            raise ConfigError(
                f"length_ranges: {name!r} is the name of another section of the official metrics "
                "files; take another"
            )
        if not 0 <= low < high:
            raise ConfigError(
                f"length_ranges: {name} is from {low:g} to {high:g} s; expected two numbers of "
                "seconds, the second above the first (inf: no limit)"
            )
    return {FULL_RANGE: LENGTH_RANGES[FULL_RANGE], **ranges}


def count_problem(count: int, duration: float, scoring: Scoring) -> str | None:
    """Why `count` saliency scores do not fit a video of `duration` seconds; None if they do.

    Features are often a clip or two longer or shorter than their video, and the official evaluator
    cuts scores or pads them with 0. A larger difference means clips of another length.
    """
    clips = num_video_clips(duration, scoring.clip_length)
    expected = clips if scoring.max_clips is None else min(clips, scoring.max_clips)
    if lengths_agree(count, expected):
        return None
    cut = f", of which the first {expected} were used" if scoring.cuts(duration) else ""
    return (
        f"{count} saliency scores, but its video of {duration:g} s has {clips} clips of "
        f"{scoring.clip_length:g} s{cut}"
    )


def likely_clip_length(counts: Sequence[int], durations: Sequence[float]) -> float | None:
    """The roundest clip length by which 90% of the videos have these counts, to two clips.

    None if there is none, for example where videos were cut.
    """
    middle = float(np.median(np.asarray(durations, float) / np.asarray(counts)))
    for candidate in (CLIP_LENGTH, *(float(f"{middle:.{digits}g}") for digits in range(1, 5))):
        near = [
            abs(num_video_clips(duration, candidate) - count) <= _NEAR
            for count, duration in zip(counts, durations, strict=True)
        ]
        if np.mean(near) >= _NEARLY_ALL:
            return candidate
    return None


def assumed_clip_length(path: Any, counts: Sequence[int], durations: Sequence[float]) -> float:
    """`likely_clip_length`, or 2 s if there is none; with a note on stderr if it is not 2 s.

    Args:
      path: of the predictions.
      counts: of the saliency scores of each query; [] where there are none to compare.
      durations: seconds, of each query's video.
    """
    likely = likely_clip_length(counts, durations) if counts else None
    if likely in (None, CLIP_LENGTH):
        return CLIP_LENGTH
    print(
        f"{path}: assuming clips of {likely:g} s, by the numbers of saliency scores and the "
        "durations; "
        "--clip_length=SECONDS gives another",
        file=sys.stderr,
    )
    return likely


def rank_cut_clips_last(
    saliency: Float[np.ndarray, " _"], num_rated: int
) -> Float[np.ndarray, " L"]:
    """Scores [L'] of a video that was cut, padded to [L] with a score below all others.

    Saliency is often negative: padded with 0, as in the official evaluator, clips without a score
    would rank first.
    """
    missing = max(0, num_rated - len(saliency))
    return np.append(saliency, np.full(missing, np.nextafter(saliency.min(), -np.inf)))


def mean_over_rated_clips(
    saliency: Float[np.ndarray, " _"], scoring: Scoring
) -> Float[np.ndarray, " L"]:
    """The mean of the predicted saliency [L'] over the time of each rated clip: [L].

    For a clip that extends beyond the last score it is the mean up to there.
    """
    seconds, rated = scoring.clip_length, scoring.rated_clip_length
    if seconds == rated:
        return saliency
    end = len(saliency) * seconds
    edges = np.minimum(np.arange(num_video_clips(end, rated) + 1) * rated, end)
    until = np.concatenate([[0.0], np.cumsum(saliency * seconds)])  # the integral from the start
    integral = np.interp(edges, np.arange(len(saliency) + 1) * seconds, until)
    # Rounded far below the decimals of predictions, so that equal means stay equal.
    return np.round(np.diff(integral) / np.diff(edges), 9)
