"""From a built split to batches: reading, labelling, padding and prefetching in worker threads.

The position of a pipeline is the global step. A batch is a pure function of the seed and the step,
so a pipeline that starts at a step gives the same batches as one that has run up to it. No more
than `prefetch` batches are kept in host memory.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

import grain
import numpy as np
from jaxtyping import Int, Int32

from flashvtg_jax.data.annotations import LABEL_FIELDS
from flashvtg_jax.data.batch import Batch, BatchShape, Row, collate
from flashvtg_jax.data.batch_plan import PADDING_ROW, BatchPlan, checked_buckets, default_buckets
from flashvtg_jax.data.dataset_names import is_custom
from flashvtg_jax.data.labels import Labeller, label_rule
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.video_ids import source_video

T = TypeVar("T")

if TYPE_CHECKING:
    import ml_collections

    from flashvtg_jax.data.source import SplitSource


def train_pipeline(
    source: SplitSource,
    config: ml_collections.ConfigDict,
    *,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Returns an iterator over this process's part of every training batch of a run.

    `get_state()` and `set_state()` save and restore the position, which counts the batches that
    the iterator has returned, not those it has prefetched. It ends after `config.train.epochs`;
    call `close()` to stop earlier.

    Args:
      source: the training split.
      config: the whole configuration; `seed`, `data` and `train` are read.
      start_step: batches to skip, without reading them.
      process_index: this process.
      process_count: processes that share each batch; the batch size must be a multiple of it.

    Raises:
      ConfigError: the configuration does not fit the data set (clip length, labels, names and
        widths of streams, buckets).
      DataError: when the split has no examples, no clips or no moments to train on.
    """
    plan = train_plan(source, config)
    _check_moments(source, config)
    loader = _BatchLoader(source, config, plan, process_index, process_count)
    num_steps = config.train.epochs * plan.steps_per_epoch
    return prefetched(loader, num_steps, config, start_step=start_step)


def evaluation_batches(
    source: SplitSource,
    config: ml_collections.ConfigDict,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Returns an iterator over a split, every example exactly once over all processes.

    Batches go from long buckets to short ones, in the order of the split within a bucket;
    `Batch.example` is the row of each example. All processes get the same number of batches of the
    same shapes. Clips for the losses are drawn as in epoch 0; without annotations the targets are
    empty.

    Raises:
      ConfigError, DataError: as `train_pipeline`, except that moments are not needed.
    """
    plan = evaluation_plan(source, config)
    loader = _BatchLoader(source, config, plan, process_index, process_count)
    return prefetched(loader, plan.steps_per_epoch, config)


def example_batch(source: SplitSource, config: ml_collections.ConfigDict, example: int) -> Batch:
    """Returns one example of a split as in `evaluation_batches`, in a batch without padding.

    Raises:
      ConfigError, DataError: as `evaluation_batches`.
    """
    return _BatchLoader(source, config, evaluation_plan(source, config), 0, 1).alone(example)


def train_plan(source: SplitSource, config: ml_collections.ConfigDict) -> BatchPlan:
    """Returns the batch plan of `train_pipeline`."""
    return BatchPlan(
        clip_counts(source, config),
        _buckets(source, config, config.train.batch_size),
        config.train.batch_size,
        seed=config.seed,
        drop_last=config.train.drop_last,
    )


def evaluation_plan(source: SplitSource, config: ml_collections.ConfigDict) -> BatchPlan:
    """Returns the batch plan of `evaluation_batches`."""
    batch_size = config.evaluation.batch_size
    buckets = _buckets(source, config, batch_size)
    return BatchPlan(clip_counts(source, config), buckets, batch_size, shuffle=False)


def clip_counts(source: SplitSource, config: ml_collections.ConfigDict) -> Int[np.ndarray, " N"]:
    """Returns the clips of each example [N], at most `config.data.max_clips`.

    These are the clips that all streams of `config.data.video_streams` have.
    """
    return _clips(source.num_clips, source.stream_clips, config)


def whole_clip_counts(
    source: SplitSource, config: ml_collections.ConfigDict
) -> Int[np.ndarray, " N"]:
    """Returns the clips of each example [N] as `clip_counts`, without the limit."""
    return _whole_clips(source.num_clips, source.stream_clips, config)


class _BatchLoader:
    """Reads, labels and pads planned batches, in the prefetching threads."""

    def __init__(
        self,
        source: SplitSource,
        config: ml_collections.ConfigDict,
        plan: BatchPlan,
        process_index: int,
        process_count: int,
    ):
        data = config.data
        self._source = source
        self._plan = plan
        self._process = (process_index, process_count)
        self._seed = config.seed
        self._label = Labeller(config)
        self._whole_clips = whole_clip_counts(source, config)
        _check_clips_and_labels(source, config)
        self._video_streams = tuple(data.video_streams)
        self._video_ids = video_ids(source, data.source_video)
        self._normalize_query = data.normalize_query
        self._shape = BatchShape(  # without the clips, which differ from batch to batch
            rows=plan.batch_size // process_count,
            clips=0,
            # Of the whole split, so that all its domains have the same shapes.
            words=min(data.max_words, int(np.max(source.all_num_words))),
            windows=max(1, int(np.max(source.num_windows))),
            pairs=self._label.num_pairs,
            stream_widths=checked_widths(source, config),
            query_width=source.query_dim,
            spatial_tokens=data.spatial_tokens,
        )

    def __call__(self, step: int) -> Batch:
        """Returns this process's rows of the batch of a global step."""
        epoch, planned = self._plan.batch(step)
        rows = (
            None if example == PADDING_ROW else self._row(int(example), epoch)
            for example in planned.share(*self._process)
        )
        shape = dataclasses.replace(self._shape, clips=planned.length)
        return collate(rows, shape, normalize_query=self._normalize_query)

    def alone(self, example: int) -> Batch:
        """Reads one example, as in epoch 0, into a batch of its own length."""
        row = self._row(example, epoch=0)
        sizes = {"rows": 1, "clips": len(row.streams[0]), "words": len(row.query)}
        shape = dataclasses.replace(self._shape, **sizes)
        return collate([row], shape, normalize_query=self._normalize_query)

    def _row(self, example: int, epoch: int) -> Row:
        stored = self._source[example]
        streams = [stored.streams[name] for name in self._video_streams]
        num_clips = min(int(self._plan.lengths[example]), *map(len, streams))
        annotation = stored.annotation
        rng = np.random.default_rng([self._seed, epoch, example])
        found = self._label(annotation, num_clips, int(self._whole_clips[example]))
        positives, negatives = found.labelled.draw(rng)
        return Row(
            streams=[stream[:num_clips] for stream in streams],
            query=stored.query[: self._shape.words],
            duration=found.duration,
            windows=found.windows,
            saliency_labels=found.labelled.saliency_labels,
            positive_clips=positives,
            negative_clips=negatives,
            video_id=int(self._video_ids[example]),
            example=example,
        )


def prefetched(
    load: Callable[[int], T],
    num_steps: int,
    config: ml_collections.ConfigDict,
    *,
    start_step: int = 0,
    ahead: int | None = None,
) -> grain.DatasetIterator[T]:
    """Returns an iterator over `load(step)`, computed in `config.data.num_threads` threads.

    Args:
      load: called with each step; the results come in order.
      num_steps: steps in all.
      config: the whole configuration; `data` is read.
      start_step: first step.
      ahead: results that are prefetched; None: `config.data.prefetch`.
    """
    ahead = config.data.prefetch if ahead is None else ahead
    # More threads than batches in flight would idle, and Grain warns about them.
    options = grain.ReadOptions(
        num_threads=min(config.data.num_threads, ahead), prefetch_buffer_size=ahead
    )
    iterator = iter(grain.MapDataset.range(num_steps).map(load).to_iter_dataset(options))
    if start_step:
        # A run that has done all its epochs has nothing left.
        iterator.set_state({"next_index": min(start_step, num_steps)})
    return iterator


def _buckets(
    source: SplitSource, config: ml_collections.ConfigDict, batch_size: int
) -> tuple[int, ...]:
    """Returns `config.data.buckets`, or for None those chosen for the whole split.

    All domains of a split have the same buckets.
    """
    lengths = _clips(source.all_num_clips, source.all_stream_clips, config)
    chosen = functools.partial(
        default_buckets, lengths, batch_size=batch_size, groups=source.all_domains
    )
    if config.data.buckets is None:
        return chosen()
    buckets = checked_buckets(config.data.buckets)
    longest = int(lengths.max(initial=0))
    if longest > buckets[-1]:
        raise ConfigError(
            f"a video of {config.data.dataset!r} has {longest} clips, but the last of "
            f"config.data.buckets={buckets} holds {buckets[-1]}: set config.data.buckets to end "
            f"with {longest} or more, such as {chosen()}, or set "
            f"config.data.max_clips={buckets[-1]} to cut longer videos"
        )
    return buckets


def _clips(
    num_clips: np.ndarray,
    stream_clips: Mapping[str, np.ndarray],
    config: ml_collections.ConfigDict,
) -> np.ndarray:
    lengths = _whole_clips(num_clips, stream_clips, config)
    return lengths if config.data.max_clips is None else np.minimum(lengths, config.data.max_clips)


def _whole_clips(
    num_clips: np.ndarray,
    stream_clips: Mapping[str, np.ndarray],
    config: ml_collections.ConfigDict,
) -> np.ndarray:
    used = [stream_clips[name] for name in config.data.video_streams if name in stream_clips]
    return np.min(used, axis=0) if used else np.asarray(num_clips, np.int64)


def _check_moments(source: SplitSource, config: ml_collections.ConfigDict) -> None:
    """Raises DataError for a training split without moments if the label rule needs them."""
    if label_rule(config.data.labels).needs_windows and not np.any(source.num_windows):
        raise DataError(
            f"split {config.data.train_split!r} of {config.data.dataset!r} has no moments to "
            "train on; build it from annotations with relevant_windows"
        )


def _check_clips_and_labels(source: SplitSource, config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError for a clip length, resampling or labels other than the data set's."""
    dataset = config.data.dataset
    if not math.isclose(config.clip_length, source.clip_length, rel_tol=1e-6):
        raise ConfigError(
            f"config.clip_length is {config.clip_length:g} s, but the clips of data set "
            f"{dataset!r} last {source.clip_length:g} s; set config.clip_length to that"
        )
    if config.data.resample != source.resampled:
        raise ConfigError(
            f"config.data.resample={config.data.resample}, but data set {dataset!r} was built "
            f"{'with' if source.resampled else 'without'} --resample; set the field to "
            f"{source.resampled}, or build the data set again with --overwrite"
        )
    # Kinds of labels that share their fields read them differently.
    fields = set(LABEL_FIELDS[source.labels])
    fitting = [
        kind for kind in LABEL_FIELDS if kind == source.labels or set(LABEL_FIELDS[kind]) < fields
    ]
    if config.data.labels not in fitting:
        raise ConfigError(
            f"config.data.labels={config.data.labels!r} does not fit data set {dataset!r}, whose "
            f"labels are {source.labels!r}; choose {' or '.join(map(repr, fitting))}"
        )


def checked_widths(source: SplitSource, config: ml_collections.ConfigDict) -> tuple[int, ...]:
    """Returns the width of each configured stream, and checks that of the query.

    The width is that of one token. The data set has all S tokens of a clip side by side, or a
    single token, which is repeated.

    Raises:
      ConfigError: a stream that the data set does not have, or another width or S than it has.
    """
    tokens, expected = config.data.spatial_tokens, config.data.video_widths
    widths, any_tokens = [], False
    for name in config.data.video_streams:
        if name not in source.streams:
            raise ConfigError(
                f"config.data.video_streams names {name!r}, but data set "
                f"{config.data.dataset!r} has {', '.join(map(repr, source.streams))}; if there are "
                f"more, build it again: {source.rebuild_command()}"
            )
        found, stored_tokens = source.streams[name], source.tokens.get(name)
        known = stored_tokens or 1
        width = expected.get(name, found // known)  # a stream added by hand may have none there
        # Tokens that the files have are not divided in another way, and not joined into one either,
        # unless the configuration says so.
        has_one = found == width and 1 in (known, tokens)
        has_tokens = found == tokens * width and stored_tokens in (None, tokens)
        if not (has_one or has_tokens):
            problem = f"video stream {name!r}: config.data.video_widths expects width {width}"
            if tokens > 1:
                problem += f", or {tokens * width} for config.spatial_tokens={tokens}"
            problem += f", data set {config.data.dataset!r} has {found}"
            if known > 1:
                problem += f": {known} tokens of {found // known} (config.spatial_tokens={known})"
            elif stored_tokens and found == tokens * width:
                problem += (
                    ", joined from parts of one token; tokens of parts must be arrays "
                    f"[L, {tokens}, width], build it from those"
                )
            raise ConfigError(problem)
        widths.append(width)
        any_tokens |= has_tokens
    if tokens > 1 and not any_tokens:
        # For custom data the command line cannot set widths: it does not know the streams.
        place = ", in a configuration file," if is_custom(config.data.dataset) else ""
        raise ConfigError(
            f"config.spatial_tokens={tokens}, but each stream of data set {config.data.dataset!r} "
            f"has one token a clip; build it from arrays [L, {tokens}, width], or "
            f"[L, {tokens} * width] where config.data.video_widths{place} gives the width of a "
            "token"
        )
    if config.data.query_width != source.query_dim:
        raise ConfigError(
            f"query features: config.data.query_width expects width {config.data.query_width}, "
            f"data set {config.data.dataset!r} has {source.query_dim}"
        )
    return tuple(widths)


def video_ids(source: SplitSource, kind: str) -> Int32[np.ndarray, " N"]:
    """Returns the index of each example's source video in the split [N] int32.

    `kind` and errors are those of `source_video`.
    """
    names = [source_video(annotation["vid"], kind) for annotation in source.annotations()]
    return np.unique(names, return_inverse=True)[1].astype(np.int32)
