"""Saliency labels and the clip pairs of the margin loss, from an annotation line.

A label rule is a pure function `(annotation, clips) -> Labelled`; `LABEL_RULES` maps the values of
`config.data.labels` to rules. Labels are the same in every epoch; `Labelled.draw` draws the clip
pairs with a generator that the pipeline seeds with (seed, epoch, example), so that a resumed run
draws what the interrupted one would have drawn. `Labeller` applies the rule of a configuration,
also to videos that `config.data.max_clips` cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from flashvtg_jax.clips import rate_clips
from flashvtg_jax.data.annotations import LABEL_FIELDS
from flashvtg_jax.errors import ConfigError, DataError

if TYPE_CHECKING:
    import ml_collections

Pairs = tuple[Int32[np.ndarray, " pairs"], Int32[np.ndarray, " pairs"]]


class Clips(NamedTuple):
    """The clips that the model reads of one video.

    number: L.
    length: seconds of each, as the configuration says.
    label_length: seconds of the clips that ids and ratings count.
    """

    number: int
    length: float = 2.0
    label_length: float = 2.0


class Labelled(NamedTuple):
    """The labels of one example.

    saliency_labels: [L] float32.
    draw: a generator -> positive_clips and negative_clips, [pairs] int32 each.
    """

    saliency_labels: Float32[np.ndarray, " L"]
    draw: Callable[[np.random.Generator], Pairs]


class LabelRule(NamedTuple):
    """How one family of data sets turns annotations into labels.

    label: the rule itself.
    num_pairs: length of `positive_clips` and `negative_clips`, the same for every example.
    needs_windows: whether a split without any moment cannot be trained on.
    """

    label: Callable[[Mapping[str, Any], Clips], Labelled]
    num_pairs: int
    needs_windows: bool


def qvhighlights_labels(annotation: Mapping[str, Any], clips: Clips) -> Labelled:
    """Labels of a QVHighlights annotation: rated clips carry the sum of their annotators.

    Args:
      annotation: reads `relevant_clip_ids` (n ids), `saliency_scores` (n rows of ratings) and
        `duration` (seconds).
      clips: of the video, L. Ids beyond the video stand for its last clip. If ids count clips of
        another length, `rate_clips` computes which clips are relevant, and their labels.

    Returns:
      saliency_labels, 0 where nobody rated; positive_clips: the most salient relevant clip
      and a random relevant one; negative_clips: the least salient relevant clip and a random
      irrelevant one. Without an irrelevant clip the first of each pair is repeated; without a
      relevant clip everything is 0.

    Raises:
      DataError: the number of relevant clips is not that of the rows of ratings.
    """
    clip_ids = np.asarray(annotation.get("relevant_clip_ids") or (), np.int64)
    if not clip_ids.size:
        return _nothing_relevant(clips.number)
    ratings = annotation.get("saliency_scores") or ()
    if len(ratings) != len(clip_ids):
        raise DataError(
            f"query {annotation.get('qid')}: {len(clip_ids)} relevant_clip_ids but {len(ratings)} "
            "rows of saliency_scores; repair the annotation, or use config.data.labels='windows' "
            "for a data set without saliency ratings"
        )
    sums = np.asarray(ratings, np.float32).sum(axis=1)
    duration = annotation["duration"]
    clip_ids, sums, labels = rate_clips(
        clip_ids, sums, clips.number, duration, clips.length, clips.label_length
    )

    # Stable, so that ties are the same on every processor: the last of the most salient and the
    # first of the least salient. The order of ties in numpy's default sort depends on the CPU.
    order = np.argsort(sums, kind="stable")
    most_salient, least_salient = clip_ids[order[-1]], clip_ids[order[0]]

    irrelevant = np.ones(clips.number, bool)
    irrelevant[clip_ids] = False
    irrelevant = np.flatnonzero(irrelevant)

    def draw(rng: np.random.Generator) -> Pairs:
        random_positive, random_negative = most_salient, least_salient
        if irrelevant.size:
            random_positive = clip_ids[rng.integers(clip_ids.size)]
            random_negative = irrelevant[rng.integers(irrelevant.size)]
        return (
            np.asarray([most_salient, random_positive], np.int32),
            np.asarray([least_salient, random_negative], np.int32),
        )

    return Labelled(labels, draw)


def window_labels(annotation: Mapping[str, Any], clips: Clips) -> Labelled:
    """Labels of a data set with moments only (Charades-STA, TACoS): 1 inside any window.

    A clip lasts `duration / clips.number` here, whatever the features' nominal clip length.

    Args:
      annotation: reads `relevant_windows` (seconds) and `duration` (seconds).
      clips: of the video, L.

    Returns:
      saliency_labels; positive_clips: two different clips inside the windows, or their only clip
      twice; negative_clips: two different clips outside all of them, or, where there are fewer
      than two, the positive ones. Without a window everything is 0.
    """
    clip_duration = annotation["duration"] / clips.number
    labels = np.zeros(clips.number, np.float32)
    for start, end in annotation.get("relevant_windows") or ():
        last = max(0, min(int(end / clip_duration), clips.number) - 1)
        first = min(int(start / clip_duration), last)
        labels[first : last + 1] = 1.0
    inside = np.flatnonzero(labels)
    if not inside.size:
        return _nothing_relevant(clips.number)
    outside = np.flatnonzero(labels == 0.0)

    def draw(rng: np.random.Generator) -> Pairs:
        positives = rng.choice(inside, 2, replace=False) if inside.size > 1 else inside.repeat(2)
        negatives = rng.choice(outside, 2, replace=False) if outside.size > 1 else positives
        return positives.astype(np.int32), negatives.astype(np.int32)

    return Labelled(labels, draw)


def rating_labels(annotation: Mapping[str, Any], clips: Clips) -> Labelled:
    """Labels of a TVSum annotation: the mean of ratings from 1 to 5, on the scale from 0 to 12.

    The scale is that of QVHighlights' sums, whatever the number of annotators. Nothing is drawn.

    Args:
      annotation: reads `label`, a list of ratings for each clip.
      clips: of the video, L; further rows are ignored.

    Returns:
      saliency_labels; positive_clips: the last of the highest rated clips; negative_clips: the
      first of the lowest rated ones.

    Raises:
      DataError: there are fewer rows than clips.
    """
    points = _label_rows(annotation, clips.number) - 1.0
    return _extremes(points.sum(axis=1) / (4.0 * points.shape[1]) * 12.0)


def binary_labels(annotation: Mapping[str, Any], clips: Clips) -> Labelled:
    """Labels of a YouTube Highlights annotation: 1 for the clips of a highlight, else 0.

    Args:
      annotation: reads `label`, a list with one number for each clip.
      clips: of the video, L; further rows are ignored.

    Returns:
      As `rating_labels`.

    Raises:
      DataError: there are fewer rows than clips.
    """
    return _extremes(_label_rows(annotation, clips.number)[:, 0])


def _label_rows(annotation: Mapping[str, Any], num_clips: int) -> np.ndarray:
    """Returns the ratings of the clips [L, annotators] float64."""
    rows = np.asarray(annotation["label"], np.float64)[:num_clips]
    if len(rows) < num_clips:
        raise DataError(
            f"query {annotation.get('qid')}: label has {len(rows)} rows for {num_clips} clips; "
            "build the data set again (flashvtg build ... --overwrite), which cuts to the shorter"
        )
    return rows


def _extremes(labels: np.ndarray) -> Labelled:
    # Stable, as above: the last of the highest, the first of the lowest.
    order = np.argsort(labels, kind="stable")
    highest, lowest = order[-1:].astype(np.int32), order[:1].astype(np.int32)
    return Labelled(labels.astype(np.float32), lambda rng: (highest, lowest))


LABEL_RULES: dict[str, LabelRule] = {
    "qvhighlights": LabelRule(qvhighlights_labels, num_pairs=2, needs_windows=True),
    "windows": LabelRule(window_labels, num_pairs=2, needs_windows=True),
    "ratings": LabelRule(rating_labels, num_pairs=1, needs_windows=False),
    "binary": LabelRule(binary_labels, num_pairs=1, needs_windows=False),
}


def label_rule(name: str) -> LabelRule:
    """Returns the rule that `config.data.labels` names.

    Raises:
      ConfigError: for a name that is not in `LABEL_RULES`.
    """
    if name not in LABEL_RULES:
        raise ConfigError(
            f"config.data.labels={name!r} is not a label rule; choose one of "
            f"{', '.join(sorted(LABEL_RULES))}"
        )
    return LABEL_RULES[name]


class LabelledExample(NamedTuple):
    """The labels of an annotation line for the clips of its video that are used.

    labelled: their labels.
    windows: [M, 2] float32, seconds; cut like the video.
    duration: seconds; cut like the video.
    """

    labelled: Labelled
    windows: Float32[np.ndarray, "M 2"]
    duration: float


class Labeller:
    """Labels annotation lines by the rule of a configuration.

    Attributes:
      num_pairs: positive and negative clips of each example.
    """

    def __init__(self, config: ml_collections.ConfigDict):
        """Reads `clip_length` and `data`; ConfigError for an unknown rule."""
        self._rule = label_rule(config.data.labels)
        self.num_pairs = self._rule.num_pairs
        self._config = config

    def __call__(
        self, annotation: Mapping[str, Any], num_clips: int, whole_clips: int
    ) -> LabelledExample:
        """Labels one line.

        Args:
          annotation: the line.
          num_clips: clips of its video that are used, L.
          whole_clips: clips that its features have.

        Raises:
          DataError: there are not as many ratings as clips.
        """
        config = self._config
        line = cut_line(annotation, num_clips, whole_clips, config) or annotation
        seconds = config.clip_length
        clips = Clips(num_clips, seconds, config.data.label_clip_length or seconds)
        windows = line.get("relevant_windows") or []
        return LabelledExample(
            labelled=self._rule.label(line, clips),
            windows=np.asarray(windows, np.float32).reshape(-1, 2),
            duration=line["duration"],
        )


def cut_line(
    annotation: Mapping[str, Any],
    num_clips: int,
    whole_clips: int,
    config: ml_collections.ConfigDict,
) -> dict[str, Any] | None:
    """Returns an annotation line cut to the first clips of its video; None if it is not cut.

    Rows of features after the end of the video are ignored. A clip lasts `config.clip_length`; in a
    video with a `label` for each clip, its share of the duration. Duration, windows and ratings of
    the line are cut at the end of the last clip.

    Args:
      annotation: the line.
      num_clips: clips of its video that are used.
      whole_clips: clips that its features have.
      config: reads `clip_length` and `data`.
    """
    duration, seconds = annotation["duration"], config.clip_length
    if "label" in LABEL_FIELDS[config.data.labels]:
        seconds = duration / len(annotation["label"])
    end = num_clips * seconds
    if whole_clips <= num_clips or duration <= end:
        return None
    line = {**annotation, "duration": end}
    windows = annotation.get("relevant_windows") or []
    line["relevant_windows"] = [[start, min(stop, end)] for start, stop in windows if start < end]
    ids, scores = (annotation.get(name) or [] for name in ("relevant_clip_ids", "saliency_scores"))
    if len(ids) == len(scores):  # the label rule raises otherwise
        limit = end / (config.data.label_clip_length or seconds) - 1e-6
        kept = [(clip, ratings) for clip, ratings in zip(ids, scores, strict=True) if clip < limit]
        line["relevant_clip_ids"] = [clip for clip, _ in kept]
        line["saliency_scores"] = [ratings for _, ratings in kept]
    return line


def _nothing_relevant(num_clips: int) -> Labelled:
    clips = np.zeros(2, np.int32)
    return Labelled(np.zeros(num_clips, np.float32), lambda rng: (clips, clips))
