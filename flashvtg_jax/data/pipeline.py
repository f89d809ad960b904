"""From a built split to batches: reading, labelling, padding, prefetching, in worker threads.

The position of a pipeline is one number, the global step: batch number `step` is a pure function
of the configuration's seed and of the step, so that a pipeline started at a step equals one that
has run up to it. Only `prefetch` batches are held in host memory.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import grain
import jax
import numpy as np

from flashvtg_jax.data.annotations import LABEL_FIELDS, youtube_id
from flashvtg_jax.data.batch import Batch, BatchShape, Row, collate, empty_batch
from flashvtg_jax.data.batch_plan import PADDING_ROW, BatchPlan, checked_buckets, default_buckets
from flashvtg_jax.data.build.custom import is_custom
from flashvtg_jax.data.labels import Labeller, label_rule
from flashvtg_jax.errors import ConfigError, DataError

T = TypeVar("T")

# What determines the sizes of a batch.
_SET_BY = {
    "rows": "the batch size",
    "words": "config.data.max_words",
    "pairs": "config.data.labels",
    "stream_widths": "config.data.video_streams",
    "query_width": "config.data.query_width",
    "spatial_tokens": "config.spatial_tokens",
}

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
    """Returns an iterator over this process's part of every training batch of the whole run.

    `get_state()` and `set_state()` save and restore the position, which counts the batches that
    were handed out, not those prefetched. The iterator ends after `config.train.epochs`; call
    `close()` when leaving it earlier.

    Args:
      source: the training split.
      config: the whole configuration; `seed`, `data` and `train` are read.
      start_step: batches to skip, without reading them.
      process_index: this process.
      process_count: processes that share each batch.

    Raises:
      ConfigError: when configuration and data set do not fit each other (clip length, labels,
        stream names and widths, buckets, batch size and processes).
      DataError: when the split has no examples, no clips or no moments to train on.
    """
    plan = train_plan(source, config)
    _check_moments(source, config)
    loader = _BatchLoader(source, config, plan, process_index, process_count)
    num_steps = config.train.epochs * plan.steps_per_epoch
    return prefetched(loader, num_steps, config, start_step=start_step)


def joint_train_pipeline(
    sources: Sequence[SplitSource],
    configs: Sequence[ml_collections.ConfigDict],
    *,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Returns one iterator over the training batches of several members, stacked.

    Every array of a batch has a leading axis of members, [E, B, ...]; along it, a batch holds what
    `train_pipeline` of each member gives at that step. Only the moments of the targets may be
    padded further, to the number that the members have at most.

    Args:
      sources: the training split of each member; one source may serve many of them.
      configs: the whole configuration of each member. The first one's `data.num_threads` and
        `data.prefetch` hold for all.
      start_step: batches to skip, without reading them.
      process_index: this process.
      process_count: processes that share each batch.

    Raises:
      ConfigError: when members have batches of different shapes, or as `train_pipeline`.
      DataError: as `train_pipeline`.
    """
    plans = [train_plan(*member) for member in zip(sources, configs, strict=True)]
    for source, config in zip(sources, configs, strict=True):
        _check_moments(source, config)
    if len({plan.shape_key for plan in plans}) != 1:
        raise ConfigError(
            "runs can be trained together only if their batches have the same lengths in the same "
            "order; these differ in their buckets, batch size, train.drop_last, or in how many "
            "videos of which length they have"
        )
    if len({config.train.epochs for config in configs}) != 1:
        raise ConfigError("runs that are trained together need one config.train.epochs")
    loaders = [
        _BatchLoader(*member, process_index, process_count)
        for member in zip(sources, configs, plans, strict=True)
    ]
    num_steps = configs[0].train.epochs * plans[0].steps_per_epoch
    loader = _JointLoader(loaders, [num_steps] * len(loaders))
    return prefetched(loader, num_steps, configs[0], start_step=start_step)


def evaluation_batches(
    source: SplitSource,
    config: ml_collections.ConfigDict,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Returns an iterator over a split, every example exactly once over all processes.

    Batches go from long buckets to short ones and keep the order of the split within a bucket;
    `Batch.example` tells which row each example is. All processes get equally many batches of
    equal shapes. The targets are drawn as in epoch 0 and are empty where the annotations are.

    Raises:
      ConfigError, DataError: as `train_pipeline`, except that moments are not needed.
    """
    plan = evaluation_plan(source, config)
    loader = _BatchLoader(source, config, plan, process_index, process_count)
    return prefetched(loader, plan.steps_per_epoch, config)


def example_batch(source: SplitSource, config: ml_collections.ConfigDict, example: int) -> Batch:
    """Returns one example of a split as `evaluation_batches` has it, but alone and not padded.

    Raises:
      ConfigError, DataError: as `evaluation_batches`.
    """
    return _BatchLoader(source, config, evaluation_plan(source, config), 0, 1).alone(example)


def joint_evaluation_batches(
    sources: Sequence[SplitSource],
    configs: Sequence[ml_collections.ConfigDict],
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Returns one iterator over the splits of several members, stacked.

    Batch k holds, along a leading axis of members [E, B, ...], batch k of `evaluation_batches` of
    each member, padded to the longest of them. Members that have fewer batches end with padding
    rows; `joint_evaluation_steps` tells how many there are.

    Raises:
      ConfigError: when members have different batch sizes or widths, or as `train_pipeline`.
      DataError: as `evaluation_batches`.
    """
    plans = [evaluation_plan(*member) for member in zip(sources, configs, strict=True)]
    loaders = [
        _BatchLoader(*member, process_index, process_count)
        for member in zip(sources, configs, plans, strict=True)
    ]
    num_steps = [plan.steps_per_epoch for plan in plans]
    return prefetched(_JointLoader(loaders, num_steps), max(num_steps), configs[0])


def joint_evaluation_steps(
    sources: Sequence[SplitSource], configs: Sequence[ml_collections.ConfigDict]
) -> int:
    """Returns how many batches `joint_evaluation_batches` gives."""
    members = zip(sources, configs, strict=True)
    return max(evaluation_plan(*member).steps_per_epoch for member in members)


def train_plan(source: SplitSource, config: ml_collections.ConfigDict) -> BatchPlan:
    """Returns the plan that `train_pipeline` follows: steps per epoch, batches of each epoch."""
    return BatchPlan(
        clip_counts(source, config),
        _buckets(source, config, config.train.batch_size),
        config.train.batch_size,
        seed=config.seed,
        drop_last=config.train.drop_last,
    )


def evaluation_plan(source: SplitSource, config: ml_collections.ConfigDict) -> BatchPlan:
    """Returns the plan that `evaluation_batches` follows."""
    batch_size = config.evaluation.batch_size
    buckets = _buckets(source, config, batch_size)
    return BatchPlan(clip_counts(source, config), buckets, batch_size, shuffle=False)


def clip_counts(source: SplitSource, config: ml_collections.ConfigDict) -> np.ndarray:
    """Returns the clips of each example [N] after cutting to `config.data.max_clips`.

    These are the clips that all streams of `config.data.video_streams` have; others do not count.
    """
    return _clips(source.num_clips, source.stream_clips, config)


def whole_clip_counts(source: SplitSource, config: ml_collections.ConfigDict) -> np.ndarray:
    """Returns the clips of each example [N] as `clip_counts`, but before cutting."""
    return _whole_clips(source.num_clips, source.stream_clips, config)


def source_video(vid: str, kind: str) -> str:
    """Returns the name of the video that an excerpt was cut from.

    Args:
      vid: video id of an annotation.
      kind: `config.data.source_video`: "youtube_id" takes the two excerpt times off the end of
        `vid`, where it has them; "vid" leaves it as it is.

    Raises:
      ConfigError: for another kind.
    """
    if kind == "youtube_id":
        return youtube_id(vid)
    if kind == "vid":
        return vid
    raise ConfigError(f"config.data.source_video={kind!r} must be 'youtube_id' or 'vid'")


class _BatchLoader:
    """Reads, labels and pads one planned batch: the work of the prefetching threads."""

    def __init__(
        self,
        source: SplitSource,
        config: ml_collections.ConfigDict,
        plan: BatchPlan,
        process_index: int,
        process_count: int,
    ):
        if plan.batch_size % process_count:
            raise ConfigError(
                f"batch size {plan.batch_size} cannot be shared by {process_count} processes; "
                "make it a multiple of their number"
            )
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
        self.shape = BatchShape(  # of all batches but for the clips
            rows=plan.batch_size // process_count,
            clips=0,
            # Of the whole split, so that all its domains have the same.
            words=min(data.max_words, int(np.max(source.all_num_words))),
            windows=max(1, int(np.max(source.num_windows))),
            pairs=self._label.num_pairs,
            stream_widths=checked_widths(source, config),
            query_width=source.query_dim,
            spatial_tokens=data.spatial_tokens,
        )

    def __call__(self, step: int) -> Batch:
        """Returns this process's rows of the batch of a global step."""
        return self.read(step, dataclasses.replace(self.shape, clips=self.clips(step)))

    def clips(self, step: int) -> int:
        """Returns the length of the batch of a global step."""
        return self._plan.batch(step)[1].length

    def read(self, step: int, shape: BatchShape, into: Batch | None = None) -> Batch:
        """Reads the batch of a global step, padded to `shape`; see `collate`."""
        epoch, planned = self._plan.batch(step)
        rows = (
            None if example == PADDING_ROW else self._row(int(example), epoch)
            for example in planned.share(*self._process)
        )
        return collate(rows, shape, normalize_query=self._normalize_query, into=into)

    def alone(self, example: int) -> Batch:
        """Reads one example, as in epoch 0, into a batch of its own lengths."""
        row = self._row(example, epoch=0)
        sizes = {"rows": 1, "clips": len(row.streams[0]), "words": len(row.query)}
        shape = dataclasses.replace(self.shape, **sizes)
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
            query=stored.query[: self.shape.words],
            duration=found.duration,
            windows=found.windows,
            saliency_labels=found.labelled.saliency_labels,
            positive_clips=positives,
            negative_clips=negatives,
            video_id=int(self._video_ids[example]),
            example=example,
        )


class _JointLoader:
    """Reads one planned batch of each member into one stacked batch."""

    def __init__(self, loaders: Sequence[_BatchLoader], num_steps: Sequence[int]):
        """Takes the loader of each member, and how many batches it has."""
        windows = max(loader.shape.windows for loader in loaders)
        shapes = [dataclasses.replace(loader.shape, windows=windows) for loader in loaders]
        for name, setting in _SET_BY.items():
            if len(values := {getattr(shape, name) for shape in shapes}) > 1:
                raise ConfigError(
                    "runs that are one program need batches of one shape, but these have "
                    f"{name}={' and '.join(map(str, sorted(values)))}; see {setting}"
                )
        self._loaders, self._num_steps, self._shape = loaders, num_steps, shapes[0]

    def __call__(self, step: int) -> Batch:
        """Returns the batches of a global step [E, B, ...]."""
        members = [
            (e, loader)
            for e, (loader, end) in enumerate(zip(self._loaders, self._num_steps, strict=True))
            if step < end
        ]
        clips = max(loader.clips(step) for _, loader in members)
        shape = dataclasses.replace(self._shape, clips=clips)
        batch = empty_batch(shape, members=len(self._loaders))
        for e, loader in members:
            loader.read(step, shape, into=jax.tree.map(operator.itemgetter(e), batch))
        return batch


def prefetched(
    load: Callable[[int], T],
    num_steps: int,
    config: ml_collections.ConfigDict,
    *,
    start_step: int = 0,
    ahead: int | None = None,
) -> grain.DatasetIterator[T]:
    """Returns what `load` makes of each step, in order, in `config.data.num_threads` threads.

    `ahead` of them are made before they are asked for; None: `config.data.prefetch`.
    """
    ahead = config.data.prefetch if ahead is None else ahead
    # More threads than batches in flight would idle, and Grain warns about them.
    options = grain.ReadOptions(
        num_threads=min(config.data.num_threads, ahead), prefetch_buffer_size=ahead
    )
    iterator = iter(grain.MapDataset.range(num_steps).map(load).to_iter_dataset(options))
    if start_step:
        # A run that has already done all its epochs (or that was given fewer) has nothing left.
        iterator.set_state({"next_index": min(start_step, num_steps)})
    return iterator


def _buckets(
    source: SplitSource, config: ml_collections.ConfigDict, batch_size: int
) -> tuple[int, ...]:
    """Returns the buckets of `config.data.buckets`: given, or chosen for the split (None).

    They are chosen for the whole split, so that all its domains have the same lengths.
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
    """Raises DataError for a training split without any moment where moments are learned."""
    if label_rule(config.data.labels).needs_windows and not np.any(source.num_windows):
        raise DataError(
            f"split {config.data.train_split!r} of {config.data.dataset!r} has no moments to "
            "train on; build it from annotations with relevant_windows"
        )


def _check_clips_and_labels(source: SplitSource, config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError where times or labels would silently mean something else."""
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
    # Kinds of the same fields mean different things by them.
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
    """Returns the width of each configured stream; the query's width is checked with them.

    It is that of one of the S tokens of a clip; the data set has all of them side by side, or one,
    which stands for all.

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
        found, told = source.streams[name], source.tokens.get(name)
        known = told or 1
        width = expected.get(name, found // known)  # a stream added by hand may have none there
        # Where the files told of tokens, these are neither cut anew nor, unasked, taken for one.
        has_one = found == width and 1 in (known, tokens)
        has_tokens = found == tokens * width and told in (None, tokens)
        if not (has_one or has_tokens):
            problem = f"video stream {name!r}: config.data.video_widths expects width {width}"
            if tokens > 1:
                problem += f", or {tokens * width} for config.spatial_tokens={tokens}"
            problem += f", data set {config.data.dataset!r} has {found}"
            if known > 1:
                problem += f": {known} tokens of {found // known} (config.spatial_tokens={known})"
            elif told and found == tokens * width:
                problem += (
                    ", joined from parts of one token; tokens of parts must be arrays "
                    f"[L, {tokens}, width], build it from those"
                )
            raise ConfigError(problem)
        widths.append(width)
        any_tokens |= has_tokens
    if tokens > 1 and not any_tokens:
        # Of one's own data the command line knows no streams to set the widths of.
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


def video_ids(source: SplitSource, kind: str) -> np.ndarray:
    """Returns the index of each example's source video among the split's sorted ones [N] int32.

    `kind` is that of `source_video`, whose errors it raises.
    """
    names = [source_video(annotation["vid"], kind) for annotation in source.annotations()]
    return np.unique(names, return_inverse=True)[1].astype(np.int32)
