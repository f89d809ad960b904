"""A split kept on the devices: batches are gathered there, the host only sends row numbers.

Features are kept as they are stored, often float16, one video after another without padding. A
batch is gathered, padded and normalised on the device and equals the pipeline's up to rounding.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from flashvtg_jax.data.batch import Batch
from flashvtg_jax.data.batch_plan import PADDING_ROW
from flashvtg_jax.data.labels import Labeller
from flashvtg_jax.data.normalization import normalize_on_device
from flashvtg_jax.data.pipeline import (
    checked_widths,
    clip_counts,
    evaluation_plan,
    video_ids,
    whole_clip_counts,
)
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.losses import Targets
from flashvtg_jax.models.init import clip_shape
from flashvtg_jax.system.memory import free_host_memory, free_memory
from flashvtg_jax.system.progress import progress_bar

if TYPE_CHECKING:
    import ml_collections

    from flashvtg_jax.data.source import SplitSource

_SHARE_OF_MEMORY = 0.25  # of the free memory: a larger split is cached on request only
_MOST_ROWS = 2**31  # clips of all examples: indices are int32


@flax.struct.dataclass
class CachedSplit:
    """The arrays of a split of N examples, on every device.

    streams: for each video stream [clips of all videos, width], as stored; several tokens of a clip
      are side by side.
    words: [words of all queries, Dq], as stored.
    first_clip, num_clips: [N] int32, the video of each example in `streams`.
    first_word, num_words: [N] int32, its query in `words`.
    first_label: [N] int32, its labels in `saliency_labels`, one for each of its clips.
    saliency_labels: [labels of all examples] float32.
    duration: [N] float32, seconds.
    windows: [N, M, 2] float32, seconds; num_windows [N] int32 of them are real.
    video_id: [N] int32, the source video.
    """

    streams: tuple[chex.Array, ...]
    words: chex.Array
    first_clip: chex.Array
    num_clips: chex.Array
    first_word: chex.Array
    num_words: chex.Array
    first_label: chex.Array
    saliency_labels: chex.Array
    duration: chex.Array
    windows: chex.Array
    num_windows: chex.Array
    video_id: chex.Array


@flax.struct.dataclass
class Draw:
    """The examples of a batch of B rows, and the clips drawn for them.

    example: [B] int32, as in `Batch`.
    row: [B] int32, its row in the whole split; -1 for padding rows of the batch.
    positive_clips, negative_clips: [B, pairs] int32.
    """

    example: chex.Array
    row: chex.Array
    positive_clips: chex.Array
    negative_clips: chex.Array


@dataclasses.dataclass(frozen=True)
class TakeBatch:
    """Gathers batches of one shape within a compiled program.

    clips: L, clips that rows are padded to.
    words: Q, words that rows are padded to.
    normalize_query: whether word features are normalised.
    stream_widths: widths of the video streams, in order, of each token; Dv is their sum.
    spatial_tokens: S, of each clip.
    """

    clips: int
    words: int
    normalize_query: bool
    stream_widths: tuple[int, ...]
    spatial_tokens: int = 1

    def __call__(self, split: CachedSplit, draw: Draw) -> Batch:
        """Returns the batch [B, L, Dv] (or [B, L, S, Dv]), [B, Q, Dq]."""
        valid = draw.row >= 0
        row = jnp.maximum(draw.row, 0)

        def gather(values, first, count, length):
            mask = (jnp.arange(length) < count[row][:, None]) & valid[:, None]
            index = jnp.where(mask, first[row][:, None] + jnp.arange(length), 0)
            taken = values.at[index].get(mode="promise_in_bounds")
            return jnp.where(mask.reshape(mask.shape + (1,) * (taken.ndim - 2)), taken, 0), mask

        streams = []
        for stream, width in zip(split.streams, self.stream_widths, strict=True):
            taken, video_mask = gather(stream, split.first_clip, split.num_clips, self.clips)
            if self.spatial_tokens > 1:  # all that are stored, or a single one, repeated below
                taken = taken.reshape(*taken.shape[:2], -1, width)
            clip = clip_shape(self.spatial_tokens, width)
            streams.append(jnp.broadcast_to(normalize_on_device(taken), (*taken.shape[:2], *clip)))
        query, query_mask = gather(split.words, split.first_word, split.num_words, self.words)
        labels, _ = gather(split.saliency_labels, split.first_label, split.num_clips, self.clips)
        window_mask = jnp.arange(split.windows.shape[1]) < split.num_windows[row][:, None]
        window_mask &= valid[:, None]
        return Batch(
            video=jnp.concatenate(streams, axis=-1),
            video_mask=video_mask,
            query=normalize_on_device(query) if self.normalize_query else query.astype(jnp.float32),
            query_mask=query_mask,
            duration=jnp.where(valid, split.duration[row], 0),
            example=draw.example,
            targets=Targets(
                windows=jnp.where(window_mask[..., None], split.windows[row], 0),
                window_mask=window_mask,
                saliency_labels=labels,
                positive_clips=draw.positive_clips,
                negative_clips=draw.negative_clips,
                video_id=jnp.where(valid, split.video_id[row], -1),
            ),
        )


class DeviceCache:
    """A whole split, all its domains included, read once and kept on the devices.

    Attributes:
      split: the arrays, on devices.
      num_words: Q, words that queries are padded to.
      normalize_query: whether word features are normalised.
      num_pairs: positive and negative clips of each example.
    """

    def __init__(
        self,
        source: SplitSource,
        config: ml_collections.ConfigDict,
        put: Callable[[Any], Any],
        *,
        show_progress: bool = False,
    ):
        """Reads the split.

        Args:
          source: the split, or domains of it.
          config: the whole configuration; `data` is read.
          put: puts numpy arrays on the devices.
          show_progress: show a progress bar while the videos are read.

        Raises:
          DataError: a row cannot be read, or its labels do not fit its clips.
          ConfigError: widths or tokens other than those of the data set.
        """
        data = config.data
        source = source.select(())
        annotations = source.annotations()
        label = Labeller(config)
        self.normalize_query = data.normalize_query
        self._clip_fields = {
            "stream_widths": checked_widths(source, config),
            "spatial_tokens": data.spatial_tokens,
        }
        self.num_words = min(data.max_words, int(source.num_words.max()))
        self.num_pairs = label.num_pairs

        first_of, video_of = _distinct_videos(annotations)
        names = tuple(data.video_streams)
        counts = clip_counts(source, config)
        longest = _longest(source, counts)

        one, starts = source.video(0), _starts(longest)
        streams = [np.zeros((longest.sum(), one[name].shape[1]), one[name].dtype) for name in names]

        def read_video(video: int) -> int:
            stored = source.video(int(first_of[video]))
            length = min(int(longest[video]), *(len(stored[name]) for name in names))
            for name, stream in zip(names, streams, strict=True):
                stream[starts[video] : starts[video] + length] = stored[name][:length]
            return length

        with concurrent.futures.ThreadPoolExecutor(data.num_threads) as pool:
            numbers = range(len(first_of))
            read = pool.map(read_video, numbers)
            lengths = np.array([*progress_bar(read, len(numbers), "loading", show_progress)])
            queries = list(pool.map(source.query, range(len(source))))
        source.forget()
        queries = [query[: self.num_words] for query in queries]
        num_clips = np.minimum(counts, lengths[video_of])
        whole = whole_clip_counts(source, config)
        labelled = [
            label(annotation, *map(int, clips))
            for annotation, *clips in zip(annotations, num_clips, whole, strict=True)
        ]
        self._draws = [found.labelled.draw for found in labelled]
        num_words = np.array([len(query) for query in queries])
        windows = [found.windows for found in labelled]
        padded = np.zeros((len(source), max(1, int(source.num_windows.max())), 2), np.float32)
        for row, own in enumerate(windows):
            padded[row, : len(own)] = own
        self.split: CachedSplit = put(
            CachedSplit(
                streams=tuple(streams),
                words=np.concatenate(queries),
                first_clip=starts[video_of],
                num_clips=num_clips.astype(np.int32),
                first_word=_starts(num_words),
                num_words=num_words.astype(np.int32),
                first_label=_starts(num_clips),
                saliency_labels=np.concatenate(
                    [found.labelled.saliency_labels for found in labelled]
                ),
                duration=np.array([found.duration for found in labelled], np.float32),
                windows=padded,
                num_windows=np.array([len(own) for own in windows], np.int32),
                video_id=video_ids(source, data.source_video),
            )
        )

    def draw(
        self,
        source: SplitSource,
        examples: Int[np.ndarray, " B"],
        seed: int | None = None,
        epoch: int = 0,
    ) -> Draw:
        """Returns the draw of a batch, on the host.

        Args:
          source: the split, or domains of it.
          examples: [B] rows of the source, `PADDING_ROW` for padding rows.
          seed: determines, with epoch and example, the clips that are drawn, as in the pipeline;
            None: none are drawn, all are 0.
          epoch: see `seed`.
        """
        row = np.where(examples == PADDING_ROW, -1, source.rows[examples])
        clips = np.zeros((2, len(row), self.num_pairs), np.int32)
        for b in np.flatnonzero(row >= 0) if seed is not None else ():
            rng = np.random.default_rng([seed, epoch, int(examples[b])])
            clips[0, b], clips[1, b] = self._draws[row[b]](rng)
        example = np.where(row < 0, -1, examples)
        return Draw(example.astype(np.int32), row.astype(np.int32), clips[0], clips[1])

    def taking(self, clips: int) -> TakeBatch:
        """Returns the function that gathers batches of `clips` clips."""
        return TakeBatch(clips, self.num_words, self.normalize_query, **self._clip_fields)


def evaluation_draws(
    source: SplitSource,
    config: ml_collections.ConfigDict,
    cache: DeviceCache,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[tuple[int, Draw]]:
    """Returns the batches of `evaluation_batches`: the clips and the draw of each."""
    for batch in evaluation_plan(source, config).epoch(0):
        yield batch.length, cache.draw(source, batch.share(process_index, process_count))


def cached_bytes(source: SplitSource, config: ml_collections.ConfigDict) -> int:
    """Returns the memory that a whole split takes on a device, without reading its features.

    Features and labels of the clips count; the rest is small.
    """
    source = source.select(())
    counts = clip_counts(source, config)
    longest = _longest(source, counts)
    streams, query = source.video(0), source.query(0)
    used = [streams[name] for name in config.data.video_streams]
    a_clip = sum(stream.shape[1] * stream.itemsize for stream in used)
    words = np.minimum(source.num_words, config.data.max_words).sum()
    a_word = query.shape[1] * query.itemsize
    return int(longest.sum() * a_clip + words * a_word + counts.sum() * 4)


def is_worth_caching(
    source: SplitSource, config: ml_collections.ConfigDict, devices: Sequence[jax.Device]
) -> bool:
    """Returns whether to keep a split on the devices.

    `config.data.cache_on_device` decides, or if it is None the memory that is free.

    Args:
      source: the split, or domains of it.
      config: the whole configuration.
      devices: of this process; each gets the whole split.

    Raises:
      ConfigError: it is set to True and there is not enough memory.
    """
    wanted = config.data.cache_on_device
    if wanted is False:
        return False
    needed = cached_bytes(source, config)
    # The host assembles it; CPU devices keep it in the same memory.
    on_cpu = devices[0].platform == "cpu"
    places = {
        "the host": (needed * (1 + len(devices) * on_cpu), free_host_memory()),
        devices[0].device_kind: (needed, free_memory(devices[0])),
    }
    problem = None
    share = 1 if wanted else _SHARE_OF_MEMORY
    for place, (takes, free) in places.items():
        if free is not None and takes > share * free:
            problem = f"takes {takes / 2**30:.1f} GiB on {place}, {free / 2**30:.1f} are free"
    if clip_counts(source.select(()), config).sum() >= _MOST_ROWS:
        problem = f"has {_MOST_ROWS} clips of all queries or more, which cannot be numbered"
    if wanted and problem:
        raise ConfigError(
            f"config.data.cache_on_device: {source.name} {problem}; set it to None: then the host "
            "sends batches if the data do not fit"
        )
    return bool(wanted) or (problem is None and places[devices[0].device_kind][1] is not None)


def _longest(source: SplitSource, counts: np.ndarray) -> np.ndarray:
    """Returns the number of clips of each video that some example uses."""
    first_of, video_of = _distinct_videos(source.annotations())
    longest = np.zeros(len(first_of), np.int64)
    np.maximum.at(longest, video_of, counts)
    return longest


def _distinct_videos(annotations: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first row of each video, and the video of each row."""
    vids = [annotation["vid"] for annotation in annotations]
    _, first_of, video_of = np.unique(vids, return_index=True, return_inverse=True)
    return first_of, video_of


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Returns where each array begins if arrays of these lengths are concatenated, int32."""
    return (np.cumsum(lengths) - lengths).astype(np.int32)
