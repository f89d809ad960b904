"""Notes about what training cuts or leaves out of a data set, printed before it starts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flashvtg_jax.clips import clip_id_problem, label_length_problem
from flashvtg_jax.data.labels import cut_line, label_rule
from flashvtg_jax.data.pipeline import clip_counts, whole_clip_counts
from flashvtg_jax.losses.assignment import assign_points
from flashvtg_jax.models.pyramid import make_point_mask, make_points

if TYPE_CHECKING:
    import ml_collections

    from flashvtg_jax.data.source import SplitSource

_ELEMENTS = 1 << 16  # of a table of moments and clips made at once: it fits the cache


def training_notes(
    runs: Iterable[tuple[SplitSource, SplitSource, ml_collections.ConfigDict]],
) -> list[str]:
    """Returns a line for each thing that runs leave out, cut or cannot learn.

    No features are read.

    Args:
      runs: for each its training split, its validation split and the whole configuration.
    """
    lines: list[str] = []
    for train, val, config in runs:
        for name, source in ((config.data.train_split, train), (config.data.val_split, val)):
            examples = _examples(source, config)
            notes = [_cut_videos(examples, config), _cut_queries(source, config)]
            notes.append(_contradictions(examples, config))
            if source is train:
                notes.append(_moments_without_point(examples, config))
            lines += [f"note: {name}: {note}" for note in itertools.chain(*notes)]
    return list(dict.fromkeys(lines))  # runs that only differ in their seed have the same notes


class _Example(NamedTuple):
    """An annotation line, and the part of its video that is used.

    clips: that are used.
    windows: moments, cut to these clips; seconds.
    end: of these clips, if the video is cut, seconds; else None.
    """

    row: dict[str, Any]
    clips: int
    windows: Sequence[Sequence[float]]
    end: float | None


def _examples(source: SplitSource, config: ml_collections.ConfigDict) -> list[_Example]:
    counts = (clip_counts(source, config), whole_clip_counts(source, config))
    examples = []
    for row, clips, whole in zip(
        source.annotations(), *map(np.ndarray.tolist, counts), strict=True
    ):
        cut = cut_line(row, clips, whole, config)
        windows = (cut or row).get("relevant_windows") or []
        examples.append(_Example(row, clips, windows, cut and cut["duration"]))
    return examples


def _cut_videos(examples: Sequence[_Example], config: ml_collections.ConfigDict) -> Iterator[str]:
    cut = [example for example in examples if example.end is not None]
    if not cut:
        return
    moments, lost, shortened = 0, 0, 0
    for row, _, windows, end in examples:
        whole = row.get("relevant_windows") or []
        moments += len(whole)
        lost += len(whole) - len(windows)
        shortened += end is not None and sum(start < end < stop for start, stop in whole)
    videos, of_all = (len({example.row["vid"] for example in part}) for part in (cut, examples))
    yield (
        f"{videos} of {of_all} videos are longer than config.data.max_clips="
        f"{config.data.max_clips} and are cut to their first {cut[0].end:g} s; {lost} of {moments} "
        f"moments are lost and {shortened} are shortened"
    )


def _cut_queries(source: SplitSource, config: ml_collections.ConfigDict) -> Iterator[str]:
    limit = config.data.max_words
    beyond = source.num_words - limit
    if (beyond > 0).any():
        yield (
            f"{(beyond > 0).sum()} of {len(source)} queries have more than config.data.max_words="
            f"{limit} words and are cut, by {beyond.max()} words at most"
        )


def _contradictions(
    examples: Sequence[_Example], config: ml_collections.ConfigDict
) -> Iterator[str]:
    """Yields a note if ids contradict windows: earlier versions built such data sets."""
    if config.data.labels != "qvhighlights":
        return
    seconds = config.data.label_clip_length or config.clip_length
    wrong = []
    for row in (example.row for example in examples):
        ids, windows = row.get("relevant_clip_ids") or [], row.get("relevant_windows") or []
        if problem := clip_id_problem(ids, windows, seconds):
            wrong.append(f"qid {row['qid']}: {problem}")
    if wrong:
        yield f"{len(wrong)} of {len(examples)} lines have wrong ids. The first is {wrong[0]}"
    elif problem := label_length_problem((example.row for example in examples), seconds):
        yield problem


def _moments_without_point(
    examples: Sequence[_Example], config: ml_collections.ConfigDict
) -> Iterator[str]:
    model, loss = config.model, config.loss
    learned = label_rule(config.data.labels).needs_windows and loss.regression
    if not learned or model.moment_head != "pyramid":
        return
    moments = [
        _Moment(example.row["qid"], *window, example.clips)
        for example in examples
        for window in example.windows
    ]
    without = _without_point(moments, model.strides, config)
    if not without:
        return
    first, finer = without[0], (model.strides[0] / 2, *model.strides)
    left = len(_without_point(without, finer, config))
    found = "are trained as no moment; config.loss.nearest_point=True gives each its nearest point"
    if loss.nearest_point:
        found = "get the nearest point that stands for no other (config.loss.nearest_point)"
    strides = ",".join(f"{stride:g}" for stride in finer)
    yield (
        f"{len(without)} of {len(moments)} moments, such as {first.start:g} to {first.end:g} s of "
        f"qid {first.qid}, have no point of the pyramid that stands for them: they {found}. With "
        f"config.model.strides={strides} {left or 'none'} of them would be left; shorter clips "
        "help, too"
    )


class _Moment(NamedTuple):
    qid: Any
    start: float  # seconds
    end: float
    clips: int  # of its video


def _without_point(
    moments: Sequence[_Moment], strides: Sequence[float], config: ml_collections.ConfigDict
) -> list[_Moment]:
    """Returns the moments that the losses assign no point to."""
    spans = list(dict.fromkeys(moment[1:] for moment in moments))  # many queries share a moment
    if not spans:
        return []
    longest = max(clips for _, _, clips in spans)
    size = min(len(spans), max(1, _ELEMENTS // longest))

    @jax.jit
    def has_point(windows: jax.Array, clips: jax.Array) -> jax.Array:
        mask = jnp.arange(longest) < clips[:, None]
        positive, _ = assign_points(
            make_points(longest, strides),
            jnp.concatenate(make_point_mask(mask, strides), axis=1),
            windows[:, None],
            jnp.ones((size, 1), bool),
            clip_length=config.clip_length,
            sample_radius=config.loss.sample_radius,
        )
        return positive.any(axis=1)

    without: set[tuple[float, float, int]] = set()
    for begin in range(0, len(spans), size):
        part = spans[begin : begin + size]
        rows = np.zeros((size, 3), np.float32)  # of one shape: the last part may be padded
        rows[: len(part)] = part
        found = has_point(rows[:, :2], rows[:, 2])
        without.update(itertools.compress(part, ~np.asarray(found)))
    return [moment for moment in moments if moment[1:] in without]
