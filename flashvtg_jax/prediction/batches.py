"""Batches of a predictor: their sizes and compiled programs."""

import collections
import dataclasses
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from flashvtg_jax.data.batch import pad_query, pad_video
from flashvtg_jax.decoding import decode_as_evaluated, non_max_suppression
from flashvtg_jax.models.flashvtg import FlashVTG, build_model
from flashvtg_jax.models.init import clip_shape
from flashvtg_jax.prediction.inputs import CheckedVideo

GROWTH = 1.25  # of the lengths that videos are padded to
_SHORTEST = 16  # clips that a video is padded to at least
_USUAL = 75  # where the configuration names no length to start from
_ATTENTION_BYTES = 256 << 20  # that attention among clips may take in a layer, unless one row does
_TOKEN_BYTES = 256 << 20  # that features of spatial tokens may take, unless one row does


@dataclasses.dataclass(frozen=True)
class Choice:
    """The options of a prediction.

    Attributes:
      nms_threshold: intersection over union from which a moment is suppressed; None: no NMS.
      max_moments: returned for a query, at most.
      score_threshold: of moments returned; None: all.
      num_decoded: best moments before NMS.
    """

    nms_threshold: float | None
    max_moments: int
    score_threshold: float | None
    num_decoded: int


class Work(NamedTuple):
    """Queries about videos: query i is about video `index[i]`, which lasts `seconds[i]`."""

    videos: Sequence[CheckedVideo]
    queries: Sequence[np.ndarray]  # [Q, Dq] each
    index: Sequence[int]
    seconds: Sequence[float]


class Found(NamedTuple):
    """The results of a batch, on the device; saliency alone for a model without boundaries."""

    saliency: chex.Array  # [N, L]
    moments: chex.Array | None  # [N, K, 3] start, end (seconds), score; best first


class _FlashVTGOfClips(FlashVTG):
    """The model after the projection of the video: called with clips [B, L, D] as `video`."""

    def project_video(
        self, video: chex.Array, video_mask: chex.Array, *, train: bool = False
    ) -> chex.Array:
        return video


class PredictionBatches:
    """Applies a model to videos and queries in batches of few shapes, each compiled once.

    Videos are projected in batches of their own, apart from the queries: one with a thousand
    queries is projected once. Threads may use it together.
    """

    def __init__(self, config: ml_collections.ConfigDict, params: Any, batch_size: int):
        """Compiles nothing yet.

        Args:
          config: the whole configuration.
          params: of its model, on the first device.
          batch_size: rows of a batch, at most; there are fewer for long videos.
        """
        self.config = config
        self._model = build_model(config.model)
        fields = {name: getattr(self._model, name) for name in config.model}
        self._model_of_clips = _FlashVTGOfClips(**fields)
        self._widths = [config.data.video_widths[name] for name in config.data.video_streams]
        self._tokens = config.data.spatial_tokens
        self._clip_shape = clip_shape(self._tokens, sum(self._widths))  # (Dv,) or (S, Dv)
        self._params = params
        self._lengths = _lengths(config.data)
        self._row_sizes = [1]
        while self._row_sizes[-1] < batch_size:
            self._row_sizes.append(min(4 * self._row_sizes[-1], batch_size))
        self.programs: dict[tuple, Any] = {}  # by what they do, rows and lengths
        self._locks: dict[tuple, threading.Lock] = collections.defaultdict(threading.Lock)
        self._lock = threading.Lock()  # of the locks

    def padded_length(self, num_clips: int) -> int:
        """The length that videos of some clips are padded to.

        The lengths are those that the configuration names, so that a video is computed as it was
        in training; each of them divided by 1.25, again and again, down to the one before it, or
        to 16; and the longest times 1.25, again and again.
        """
        length = next((n for n in self._lengths if n >= num_clips), self._lengths[-1])
        while length < num_clips:
            length = math.ceil(length * GROWTH)
        return length

    def compile(self, num_clips: int, num_videos: int, num_queries: int, choice: Choice) -> None:
        """Compiles what `run` needs for videos of one length that share the queries evenly."""
        length = self.padded_length(num_clips)
        sizes = self._sizes(length)
        for videos, video_rows in chunks(num_videos, sizes):
            self._projection(video_rows, length)
            share = math.ceil(num_queries * videos / num_videos)
            for rows in {rows for _, rows in chunks(share, sizes)}:
                self._selection(video_rows, rows, length)
                self._answer(rows, length, choice.num_decoded)
                if self.config.loss.regression and choice.nms_threshold is not None:
                    self._suppression(rows, choice.num_decoded)

    def run(self, work: Work, choice: Choice) -> Iterator[tuple[list[int], Found]]:
        """Yields the results of each batch on the host: (indices of the queries, rows).

        Each batch is dispatched before the results of the one before are read back.
        """
        waiting: tuple[list[int], Found] | None = None
        for started in self._start(work, choice):
            if waiting:
                yield waiting[0], jax.device_get(waiting[1])
            waiting = started
        if waiting:
            yield waiting[0], jax.device_get(waiting[1])

    def _start(self, work: Work, choice: Choice) -> Iterator[tuple[list[int], Found]]:
        asked: dict[int, list[int]] = collections.defaultdict(list)  # queries of each video
        for query, video in enumerate(work.index):
            asked[video].append(query)
        by_length: dict[int, list[int]] = collections.defaultdict(list)
        for video in asked:
            by_length[self.padded_length(work.videos[video].num_clips)].append(video)
        for length, members in sorted(by_length.items(), reverse=True):
            sizes = self._sizes(length)
            for videos, video_rows in divided(members, sizes):
                features, mask = self._pad_videos(
                    [work.videos[video] for video in videos], video_rows, length
                )
                clips = self._projection(video_rows, length)(self._params, features, mask)
                pairs = [(query, row) for row, video in enumerate(videos) for query in asked[video]]
                for part, rows in divided(pairs, sizes):
                    queries, which = zip(*part, strict=True)
                    yield list(queries), self._ask(work, queries, which, clips, mask, rows, choice)

    def _ask(
        self,
        work: Work,
        queries: Sequence[int],
        which: Sequence[int],
        clips: jax.Array,
        mask: np.ndarray,
        rows: int,
        choice: Choice,
    ) -> Found:
        """Dispatches a batch of queries about rows `which` of projected videos."""
        index = np.zeros(rows, np.int32)  # in padding rows any video serves
        index[: len(which)] = which
        seconds = np.zeros(rows, np.float32)
        seconds[: len(which)] = [work.seconds[query] for query in queries]
        words, word_mask = self._pad_queries([work.queries[query] for query in queries], rows)
        video_rows, length = mask.shape
        clips, mask = self._selection(video_rows, rows, length)(clips, mask, index)
        answer = self._answer(rows, length, choice.num_decoded)
        found = answer(self._params, clips, mask, words, word_mask, seconds)
        if found.moments is not None and choice.nms_threshold is not None:
            suppression = self._suppression(rows, choice.num_decoded)
            kept = suppression(found.moments, np.float32(choice.nms_threshold))
            found = found._replace(moments=kept)
        return found

    def _sizes(self, length: int) -> list[int]:
        """Numbers of rows that batches of a length may have."""
        attention_bytes = 4 * self._model.num_heads * length**2
        widest = max(sum(self._widths), self._model.hidden_dim)
        token_bytes = 4 * length * self._tokens * widest if self._tokens > 1 else 0
        return [
            n
            for n in self._row_sizes
            if n == 1
            or (n * attention_bytes <= _ATTENTION_BYTES and n * token_bytes <= _TOKEN_BYTES)
        ]

    def _pad_videos(
        self, videos: Sequence[CheckedVideo], rows: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normalised features [V, L, Dv] or [V, L, S, Dv], streams side by side; mask [V, L]."""
        features = np.zeros((rows, length, *self._clip_shape), np.float32)
        mask = np.zeros((rows, length), bool)
        for b, video in enumerate(videos):
            pad_video(video.streams, self._widths, features[b], mask[b])
        return features, mask

    def _pad_queries(
        self, queries: Sequence[np.ndarray], rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Word features [N, Q, Dq], normalised where training did so, and mask [N, Q]."""
        data = self.config.data
        features = np.zeros((rows, data.max_words, data.query_width), np.float32)
        mask = np.zeros((rows, data.max_words), bool)
        for b, query in enumerate(queries):
            pad_query(query, features[b], mask[b], normalize_query=data.normalize_query)
        return features, mask

    def _projection(self, rows: int, length: int) -> Callable[..., Any]:
        """(params, video [V, L, Dv], mask [V, L]) -> clips [V, L, D]: what no query changes.

        Of space-time features [V, L, S, Dv] it makes [V, L, S, D]; so for the programs below.
        """

        def project(params: Any, video: chex.Array, mask: chex.Array) -> chex.Array:
            return self._model.apply({"params": params}, video, mask, method="project_video")

        shapes = (_array(rows, length, *self._clip_shape), _array(rows, length, dtype=bool))
        return self._program(("project", rows, length), project, self._params, *shapes)

    def _selection(self, video_rows: int, rows: int, length: int) -> Callable[..., Any]:
        """(clips [V, L, D], mask [V, L], which [N]) -> clips [N, L, D], mask [N, L]."""

        def select(clips: chex.Array, mask: chex.Array, which: chex.Array) -> Any:
            return clips[which], mask[which]

        shapes = (self._clips(video_rows, length), _array(video_rows, length, dtype=bool))
        key = ("select", video_rows, rows, length)
        return self._program(key, select, *shapes, _array(rows, dtype=np.int32))

    def _answer(self, rows: int, length: int, num_decoded: int) -> Callable[..., Found]:
        """(params, clips [N, L, D], mask, words [N, Q, Dq], mask, seconds [N]) -> Found."""
        settings = self.config.evaluation

        def answer(
            params: Any,
            clips: chex.Array,
            mask: chex.Array,
            words: chex.Array,
            word_mask: chex.Array,
            seconds: chex.Array,
        ) -> Found:
            output = self._model_of_clips.apply({"params": params}, clips, mask, words, word_mask)
            if not self.config.loss.regression:  # boundaries were not learned
                return Found(output.saliency, None)
            clip_length = self.config.clip_length
            moments = decode_as_evaluated(output, seconds, clip_length, settings, num_decoded)
            return Found(output.saliency, moments)

        data = self.config.data
        shapes = (
            self._clips(rows, length),
            _array(rows, length, dtype=bool),
            _array(rows, data.max_words, data.query_width),
            _array(rows, data.max_words, dtype=bool),
            _array(rows),
        )
        return self._program(("answer", rows, length, num_decoded), answer, self._params, *shapes)

    def _suppression(self, rows: int, num_decoded: int) -> Callable[..., chex.Array]:
        """(moments [N, K, 3], threshold []) -> moments [N, K, 3] after NMS."""
        nms_type = self.config.evaluation.nms_type

        def suppressed(moments: chex.Array, threshold: chex.Array) -> chex.Array:
            return non_max_suppression(moments, threshold, nms_type)

        shapes = (_array(rows, num_decoded, 3), _array())
        return self._program(("suppress", rows, num_decoded), suppressed, *shapes)

    def _clips(self, rows: int, length: int) -> jax.ShapeDtypeStruct:
        dtype = jnp.dtype(self._model.dtype)
        clip = clip_shape(self._tokens, self._model.hidden_dim)
        return _array(rows, length, *clip, dtype=dtype)

    def _program(self, key: tuple, function: Callable, *shapes: Any) -> Callable[..., Any]:
        """The compiled function; the first thread to need it compiles, others wait for that."""
        if key not in self.programs:
            with self._lock:
                lock = self._locks[key]
            with lock:
                if key not in self.programs:
                    self.programs[key] = compiled(function, *shapes)
        return self.programs[key]


def _lengths(data: ml_collections.ConfigDict) -> list[int]:
    """The lengths to pad to, ascending, up to the longest that the configuration names."""
    named = {*(data.buckets or ()), *((data.max_clips,) if data.max_clips else ())} or {_USUAL}
    lengths = set()
    before = 0
    for length in sorted(named):
        while length > before and length not in lengths:
            lengths.add(length)
            length = max(math.ceil(length / GROWTH), min(length, _SHORTEST))
        before = max(lengths)
    return sorted(lengths)


def compiled(function: Callable, *shapes: Any) -> Callable[..., Any]:
    """A function's program for arguments of these shapes, on the first device."""
    with jax.default_device(jax.devices()[0]):
        return jax.jit(function).lower(*shapes).compile()


def chunks(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Divides rows into batches of few sizes: (rows, rows with padding).

    A batch is at least half full: what would fill less of it goes into smaller ones.

    Args:
      count: rows.
      sizes: that batches may have, ascending, 1 among them.
    """
    while count > 0:
        size = next((size for size in sizes if size >= count), sizes[-1])
        if 2 * count < size:
            size = max(size for size in sizes if size <= count)
        taken = min(count, size)
        yield taken, size
        count -= taken


def divided(items: Sequence[Any], sizes: Sequence[int]) -> Iterator[tuple[Sequence[Any], int]]:
    """Divides a list as `chunks` does: (items of a batch, its rows with padding)."""
    first = 0
    for taken, size in chunks(len(items), sizes):
        yield items[first : first + taken], size
        first += taken


def _array(*shape: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
