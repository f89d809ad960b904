"""The batch that model, losses and evaluation receive, and how rows are padded into one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import chex
import flax.struct
import numpy as np
from jaxtyping import Bool, Float, Float32

from flashvtg_jax.data.normalization import normalize, normalize_tokens
from flashvtg_jax.losses import Targets
from flashvtg_jax.models.init import clip_shape


@flax.struct.dataclass
class Batch:
    """Padded examples: B rows, L clips, Q words; numpy arrays, or jax arrays on devices.

    A row without valid clips is a padding row (`example` is -1); losses and metrics ignore it.

    video: [B, L, Dv] float32, normalised features, streams side by side, without the temporal
      endpoints, 0 where padded; [B, L, S, Dv] if clips have S > 1 spatial tokens.
    video_mask: [B, L] bool, True for clips of the video.
    query: [B, Q, Dq] float32 word features, 0 where padded.
    query_mask: [B, Q] bool, True for words of the query.
    duration: [B] float32, seconds.
    example: [B] int32, row of the split, -1 for padding rows.
    targets: what the losses compare with, see `flashvtg_jax.losses.Targets`.
    """

    video: chex.Array
    video_mask: chex.Array
    query: chex.Array
    query_mask: chex.Array
    duration: chex.Array
    example: chex.Array
    targets: Targets


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """Sizes of a batch.

    rows: B, of this process.
    clips: L, clips that rows are padded to.
    words: Q, words that rows are padded to.
    windows: M, moments that rows are padded to.
    pairs: positive and negative clips of each row.
    stream_widths: widths of the video streams, in order, of each token; Dv is their sum.
    query_width: Dq.
    spatial_tokens: S, of each clip.
    """

    rows: int
    clips: int
    words: int
    windows: int
    pairs: int
    stream_widths: tuple[int, ...]
    query_width: int
    spatial_tokens: int = 1

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """(S, Dv), or (Dv,) of clips of one token."""
        return clip_shape(self.spatial_tokens, sum(self.stream_widths))


@dataclasses.dataclass(frozen=True)
class Row:
    """One example before padding; features as stored, cut to the lengths that are used.

    streams: one array [L, width] for each video stream, all of the same length L; or of width
      S * width, the tokens of a clip side by side.
    query: [Q, Dq] word features.
    duration: seconds.
    windows: [M, 2] float32, seconds.
    saliency_labels: [L] float32.
    positive_clips, negative_clips: [pairs] int32.
    video_id: index of the source video within the split.
    example: row of the split.
    """

    streams: Sequence[np.ndarray]
    query: np.ndarray
    duration: float
    windows: np.ndarray
    saliency_labels: np.ndarray
    positive_clips: np.ndarray
    negative_clips: np.ndarray
    video_id: int
    example: int


def stream_widths(data_config: Any) -> tuple[int, ...]:
    """Returns the widths of the video streams in their order, from `config.data`."""
    return tuple(data_config.video_widths[name] for name in data_config.video_streams)


def feature_widths(data_config: Any) -> tuple[int, int]:
    """Widths of a clip's (or of its tokens') and of a word's features, from the `data` section."""
    return sum(stream_widths(data_config)), data_config.query_width


def empty_batch(shape: BatchShape) -> Batch:
    """Returns a batch of padding rows."""
    rows, clips = shape.rows, shape.clips
    return Batch(
        video=np.zeros((rows, clips, *shape.clip_shape), np.float32),
        video_mask=np.zeros((rows, clips), bool),
        query=np.zeros((rows, shape.words, shape.query_width), np.float32),
        query_mask=np.zeros((rows, shape.words), bool),
        duration=np.zeros(rows, np.float32),
        example=np.full(rows, -1, np.int32),
        targets=Targets(
            windows=np.zeros((rows, shape.windows, 2), np.float32),
            window_mask=np.zeros((rows, shape.windows), bool),
            saliency_labels=np.zeros((rows, clips), np.float32),
            positive_clips=np.zeros((rows, shape.pairs), np.int32),
            negative_clips=np.zeros((rows, shape.pairs), np.int32),
            video_id=np.full(rows, -1, np.int32),
        ),
    )


def collate(
    rows: Iterable[Row | None], shape: BatchShape, *, normalize_query: bool = True
) -> Batch:
    """Pads rows into one batch and normalises their features.

    Rows are written into the batch one at a time: an iterator that reads them keeps one example in
    memory besides the batch.

    Args:
      rows: at most `shape.rows` of them, none longer than the shape. None, and rows that are
        missing at the end, become padding rows.
      shape: sizes of the batch.
      normalize_query: normalise word features too; some data sets are used raw.
    """
    batch = empty_batch(shape)
    targets = batch.targets
    for b, row in enumerate(rows):
        if row is None:
            continue
        num_clips, num_windows = len(row.streams[0]), len(row.windows)
        pad_video(row.streams, shape.stream_widths, batch.video[b], batch.video_mask[b])
        pad_query(row.query, batch.query[b], batch.query_mask[b], normalize_query=normalize_query)
        batch.duration[b] = row.duration
        batch.example[b] = row.example
        targets.windows[b, :num_windows] = row.windows
        targets.window_mask[b, :num_windows] = True
        targets.saliency_labels[b, :num_clips] = row.saliency_labels
        targets.positive_clips[b] = row.positive_clips
        targets.negative_clips[b] = row.negative_clips
        targets.video_id[b] = row.video_id
    return batch


def pad_video(
    streams: Sequence[Float[np.ndarray, "clips _"]],
    stream_widths: Sequence[int],
    video: Float32[np.ndarray, "L *tokens Dv"],
    video_mask: Bool[np.ndarray, " L"],
) -> None:
    """Writes the normalised streams of a video side by side into a row of a batch of zeros.

    Args:
      streams: arrays of the same number of clips, as in `Row`.
      stream_widths: of each token; Dv is their sum.
      video: [L, Dv] or [L, S, Dv], written to.
      video_mask: [L], written to.
    """
    edges = np.cumsum((0, *stream_widths))
    for stream, low, high in zip(streams, edges[:-1], edges[1:], strict=True):
        normalize_tokens(stream, video[: len(stream), ..., low:high])
    video_mask[: len(streams[0])] = True


def pad_query(
    words: Float[np.ndarray, "words Dq"],
    query: Float32[np.ndarray, "Q Dq"],
    query_mask: Bool[np.ndarray, " Q"],
    *,
    normalize_query: bool,
) -> None:
    """Writes the word features of a query, normalised or raw, into a row of a batch of zeros."""
    if normalize_query:
        normalize(words, out=query[: len(words)])
    else:
        query[: len(words)] = words
    query_mask[: len(words)] = True
