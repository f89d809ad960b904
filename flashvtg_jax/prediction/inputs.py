"""Checks of the videos and queries given to a predictor, and their cuts to what it reads."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from flashvtg_jax.clips import lengths_agree, num_video_clips
from flashvtg_jax.data.build.flat_features import flatness
from flashvtg_jax.data.feature_files import (
    ANOTHER_BACKBONE,
    TRANSPOSED,
    WITHOUT_BATCH_AXIS,
    pickled,
)
from flashvtg_jax.data.resampling import resample
from flashvtg_jax.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class CheckedVideo:
    """A video as it is used: streams of one length, cut to what the model reads.

    Attributes:
      streams: raw features [L, width] of each stream, in the model's order; of clips of S tokens
        [L, S * width], side by side, or one that stands for all.
      num_found: clips that all streams had, before the cut.
      flat: streams that are zeros, or the same in every row: "clip: all zeros".
      seconds: that the video lasts, if features were resampled by it.
    """

    streams: tuple[np.ndarray, ...]
    num_found: int
    flat: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def num_clips(self) -> int:
        """L."""
        return len(self.streams[0])

    @property
    def is_cut(self) -> bool:
        """Whether more was cut than the clip or two by which features are often too long."""
        return not lengths_agree(self.num_clips, self.num_found)

    @property
    def nbytes(self) -> int:
        """Memory that the features take."""
        return sum(stream.nbytes for stream in self.streams)


Video = Mapping[str, np.ndarray] | np.ndarray | CheckedVideo


@dataclasses.dataclass(frozen=True)
class InputChecks:
    """What a model reads, and checks of videos and queries against it.

    Attributes:
      streams: width of each video stream, in the model's order; of each token, if there are more.
      spatial_tokens: S, of each clip.
      query_width: of a word's features.
      max_clips: of a video that are used; None: all.
      max_words: of a query that are used.
      clip_length: seconds.
      has_moments: whether the model finds moments, in seconds.
      resample: whether features, spread over the video, are interpolated at its clips.
    """

    streams: Mapping[str, int]
    spatial_tokens: int
    query_width: int
    max_clips: int | None
    max_words: int
    clip_length: float
    has_moments: bool
    resample: bool = False

    def video(self, video: Video, name: str = "", seconds: float | None = None) -> CheckedVideo:
        """Checks a video and cuts it to what is used of it.

        Args:
          video: features of each stream by name, or those of the only one; or checked before.
          name: what errors begin with: "video 3: ".
          seconds: that it lasts; needed, and used, where features are resampled.

        Raises:
          DataError: it cannot be used.
        """
        if isinstance(video, CheckedVideo):
            if not self._reads(video):
                raise DataError(f"{name}checked by the predictor of a model with other features")
            if self.resample and seconds not in (None, video.seconds):
                raise DataError(
                    f"{name}checked as a video of {video.seconds:g} s, its duration is now "
                    f"{seconds!r}; check it again"
                )
            return video
        known = ", ".join(map(repr, self.streams))
        if not isinstance(video, Mapping):
            if len(self.streams) > 1:
                raise DataError(
                    f"{name}expected the features of each stream by name, {{NAME: array}}, of "
                    f"{known}; got {type(video).__name__}"
                )
            video = {next(iter(self.streams)): video}
        if missing := [stream for stream in self.streams if stream not in video]:
            raise DataError(
                f"{name}no stream {', '.join(map(repr, missing))}; the model reads {known}"
            )
        if unknown := [stream for stream in video if stream not in self.streams]:
            raise DataError(
                f"{name}unknown stream {', '.join(map(repr, unknown))}; the model reads {known}"
            )
        arrays = {
            stream: self._check_stream(f"{name}stream {stream!r}", video[stream], width)
            for stream, width in self.streams.items()
        }
        if self.spatial_tokens > 1 and not self._has_tokens(arrays.values()):
            raise DataError(
                f"{name}one token a clip in each stream, but the model was trained on "
                f"{self.spatial_tokens}"
            )
        flat = tuple(f"{stream}: {x}" for stream, a in arrays.items() if (x := flatness(a)))
        if self.resample:
            if seconds is None:
                raise DataError(
                    f"{name}the model was trained on features that are spread over the video; its "
                    "duration in seconds is needed"
                )
            _check_seconds(seconds, name)
            arrays = {k: resample(a, float(seconds), self.clip_length) for k, a in arrays.items()}
        lengths = {stream: len(array) for stream, array in arrays.items()}
        shortest, longest = min(lengths.values()), max(lengths.values())
        if not lengths_agree(shortest, longest, clips=1):  # as `flashvtg build` checks it
            shown = ", ".join(f"{stream!r} has {n} clips" for stream, n in lengths.items())
            raise DataError(
                f"{name}streams of one video differ in length by more than 10%: {shown}; they "
                "were extracted at different clip lengths, or one is cut short"
            )
        used = min(shortest, self.max_clips or shortest)
        # Copied where cut, so that the rest can be freed.
        cut = (array if len(array) == used else array[:used].copy() for array in arrays.values())
        return CheckedVideo(
            tuple(cut), shortest, flat, seconds=float(seconds) if self.resample else None
        )

    def query(self, query: np.ndarray, name: str = "query") -> np.ndarray:
        """Checks the features of a query [Q, Dq] and cuts them to what is used of them.

        Args:
          query: the features.
          name: what errors begin with.

        Raises:
          DataError: they cannot be used.
        """
        return _checked_array(name, query, "words", self.query_width)[: self.max_words]

    def duration(self, video: CheckedVideo, seconds: float | None, name: str = "") -> None:
        """Compares the length of a video with what it is said to last.

        Args:
          video: whose length is compared.
          seconds: that it is said to last; None: nothing is compared.
          name: what errors begin with: "video of prediction 3: ".

        Raises:
          DataError: no number of seconds, or lengths that differ by more than 10%.
        """
        if seconds is None:
            return
        _check_seconds(seconds, name)
        if not self.has_moments:
            return  # models of highlights alone count clips, not seconds
        clip_length = self.clip_length
        expected = num_video_clips(float(seconds), clip_length)
        if not lengths_agree(video.num_found, expected):
            raise DataError(
                f"{name}the features have {video.num_found} clips, but {seconds:g} s have "
                f"{expected} of {clip_length:g} s; extracted at another clip length, or cut short?"
            )

    def _check_stream(self, name: str, value: Any, width: int) -> np.ndarray:
        """A stream as data sets hold it: [L, width], or [L, S * width]. Raises DataError."""
        array, tokens = np.asarray(value), self.spatial_tokens
        if tokens == 1:
            return _checked_array(name, array, "clips", width)
        if array.ndim == 3:
            if array.shape[1:] != (tokens, width):
                advice = f". {WITHOUT_BATCH_AXIS}" if len(array) == 1 else ""
                raise DataError(
                    f"{name}: expected an array [clips, {tokens}, {width}], got shape "
                    f"{list(array.shape)}{advice}"
                )
            array = array.reshape(len(array), tokens * width)
        one = array.ndim == 2 and array.shape[1] == width
        return _checked_array(name, array, "clips", width if one else tokens * width)

    def _has_tokens(self, streams: Iterable[np.ndarray]) -> bool:
        pairs = zip(streams, self.streams.values(), strict=True)
        return any(stream.shape[1] == self.spatial_tokens * width for stream, width in pairs)

    def _reads(self, video: CheckedVideo) -> bool:
        """Whether a checked video has the streams that the model reads."""
        widths = self.streams.values()
        return (
            len(video.streams) == len(widths)
            and (video.seconds is not None) == self.resample
            and all(
                stream.shape[1] in (width, self.spatial_tokens * width)
                for stream, width in zip(video.streams, widths, strict=True)
            )
            and self._has_tokens(video.streams)
        )


def _check_seconds(seconds: Any, name: str) -> None:
    if not (is_number(seconds) and 0 < seconds < math.inf):
        raise DataError(f"{name}duration {seconds!r}; expected the seconds of the video")


def is_number(value: Any) -> bool:
    """Whether it is a finite number of Python or numpy, and not a bool."""
    number = isinstance(value, int | float | np.integer | np.floating)
    try:
        return number and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False


def _checked_array(name: str, value: Any, rows: str, width: int) -> np.ndarray:
    """An array [rows, width] of finite numbers. Raises DataError for anything else."""
    array = np.asarray(value)
    if array.dtype == jnp.bfloat16:  # which numpy does not count as a float
        array = array.astype(np.float32)
    if array.dtype.hasobject:
        raise pickled(name)
    shape = list(array.shape)
    if array.ndim != 2:
        advice = f". {WITHOUT_BATCH_AXIS}" if array.ndim == 3 and len(array) == 1 else ""
        raise DataError(f"{name}: expected an array [{rows}, {width}], got shape {shape}{advice}")
    if array.dtype.kind != "f":
        raise DataError(f"{name}: expected floating-point numbers, got {array.dtype}")
    if array.shape[1] != width:
        cause = TRANSPOSED if len(array) == width else ANOTHER_BACKBONE
        raise DataError(f"{name}: expected width {width}, got {array.shape[1]}: {cause}")
    if not len(array):
        raise DataError(f"{name}: no {rows}, shape {shape}")
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float32))  # the model computes in it
    if not finite.all():
        bad = np.flatnonzero(~finite.all(axis=1))
        raise DataError(
            f"{name}: NaN or infinity in {bad.size} of {len(array)} {rows} (first: {bad[0]})"
        )
    return array
