"""Measures of the labels of an annotation file: values and bootstrap intervals.

Every measure is a formula over sums of per-query statistics, both of `label_sums`. So a bootstrap
sample needs no second pass over the clips: it is the same formula over the statistics, weighted by
how often each video was drawn.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from flashvtg_jax.metrics import label_sums
from flashvtg_jax.metrics.highlight_detection import RATING_LEVELS
from flashvtg_jax.metrics.label_sums import LabelledQuery

ALL = "all"  # the category that holds every query

# Measures, by the name they have in tables. Shares are from 0 to 1.
ALPHA = "Krippendorff's alpha"
PAIRS_PEARSON = "mean Pearson correlation of two annotators"
PAIRS_SPEARMAN = "mean Spearman correlation of two annotators"
ALIKE = "share of clips that all annotators rate alike"
MEAN, DEVIATION = "mean label", "standard deviation of labels"
INSIDE, OUTSIDE = "inside moments", "outside moments"
MEMBERSHIP = "share of variance: inside or outside"
AMONG_OUTSIDE = "share of variance: among clips outside"
AMONG_QUERIES = "share of variance: among queries, inside"
AMONG_MOMENTS = "share of variance: among moments of a query"
AMONG_CLIPS = "share of variance: among clips of a moment"
LEFT_INSIDE = "share of variance: left inside moments"
LEVELS = {
    level: f"share of variance: inside or outside, ratings of {lowest} or more"
    for level, lowest in RATING_LEVELS.items()
}
PLACE = "share of variance among clips of a moment: their place"
PEARSON, SPEARMAN = "Pearson correlation, ", "Spearman correlation, "
CLIPS, RATED_INSIDE, UNRATED_INSIDE = "clips", "rated clips inside", "unrated clips inside"
RATED_OUTSIDE, UNRATED_OUTSIDE = "rated clips outside", "unrated clips outside, counted as 0"
MOMENTS, LONG_MOMENTS = "moments", "moments of 3 clips and more"
ANNOTATORS, VIDEOS = "annotators", "source videos"

_RATINGS, _SUMS = "share of ratings of ", "share of label sums of "

MAX_VALUES = 16  # different ratings or sums of a file up to which each one is counted
RESAMPLES = 1000
SEED = 0

Statistics = Mapping[str, np.ndarray]  # group of measures -> sums, [..., k]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One value of the study; also one line of its CSV."""

    dataset: str
    category: str  # `ALL`, or a domain
    measure: str
    value: float | None  # None: not defined, like the correlation of equal values
    low: float | None  # 95 % bootstrap interval over videos; None where there is none
    high: float | None
    clips: int  # that took part
    queries: int


Row = Mapping[str, Measurement]  # by measure
Table = Mapping[tuple[str, str], Row]  # by data set and category


def measure(dataset: str, queries: Sequence[LabelledQuery]) -> list[Measurement]:
    """Measures the labels of a file: all queries, then each category.

    Which measures there are depends on the file: without moments there is nothing inside, with one
    annotator there is no agreement.
    """
    rated = [query.ratings[~np.isnan(query.ratings[:, 0])] for query in queries]
    annotators = max(ratings.shape[1] for ratings in rated)
    every_rating = np.concatenate([ratings.ravel() for ratings in rated])
    has_moments = queries[0].moments is not None
    if has_moments:
        every_rating = np.append(every_rating, 0.0)  # unrated clips outside
    values = np.unique(every_rating)
    sums = np.unique(np.concatenate([ratings.sum(1) for ratings in rated])) if has_moments else ()
    formulas = _formulas(values, sums, annotators, has_moments)
    groups = list(dict.fromkeys(group for group, _ in formulas.values()))
    found = [label_sums.query_sums(query, values, sums) for query in queries]
    statistics = {group: np.stack([each[group][0] for each in found]) for group in groups}
    clips = {group: np.array([each[group][1] for each in found]) for group in groups}
    videos = np.array([query.video for query in queries])
    categories = np.array([query.category or "" for query in queries])

    result = []
    for category in (ALL, *(name for name in np.unique(categories) if name)):
        chosen = np.ones(len(queries), bool) if category == ALL else categories == category
        names, video_index = np.unique(videos[chosen], return_inverse=True)
        totals = _resampled_totals(
            {group: by_query[chosen] for group, by_query in statistics.items()},
            video_index,
            len(names),
        )
        for name, (group, formula) in formulas.items():
            with np.errstate(divide="ignore", invalid="ignore"):
                value, low, high = _interval(formula(totals[group]))
            used = clips[group][chosen]
            took_part = int(used.sum()), int((used > 0).sum())
            entry = Measurement(dataset, category, name, value, low, high, *took_part)
            if group == "counts":
                entry = dataclasses.replace(entry, low=None, high=None)
            result.append(entry)
        size = int(clips["counts"][chosen].sum()), int(chosen.sum())
        for name, number in ((VIDEOS, len(names)), (ANNOTATORS, annotators)):
            result.append(Measurement(dataset, category, name, float(number), None, None, *size))
    return result


# --- bootstrap


def _resampled_totals(statistics: Statistics, videos: np.ndarray, count: int) -> Statistics:
    """Sums over queries, [1 + resamples, k]: of the data, then of each bootstrap sample of videos.

    A single video gives no samples.
    """
    draws = np.ones((1, count))
    if count > 1:
        random = np.random.default_rng(SEED)
        drawn = random.multinomial(count, np.full(count, 1 / count), RESAMPLES)
        draws = np.concatenate([draws, drawn])
    totals = {}
    for group, values in statistics.items():
        by_video = np.zeros((count, values.shape[1]))
        np.add.at(by_video, videos, values)
        totals[group] = draws @ by_video
    return totals


def _interval(values: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """Value and 95 % interval from the value of the data and those of its bootstrap samples."""
    if not math.isfinite(values[0]):
        return None, None, None
    samples = values[1:][np.isfinite(values[1:])]
    if len(samples) <= RESAMPLES / 2:
        return float(values[0]), None, None
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(values[0]), float(low), float(high)


# --- measures: their formulas and names


def _formulas(
    values: Sequence[float], sums: Sequence[float], annotators: int, has_moments: bool
) -> dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """The measures of a file: name -> group of statistics and formula."""
    counts = (CLIPS, RATED_INSIDE, UNRATED_INSIDE, RATED_OUTSIDE, UNRATED_OUTSIDE)
    counts += (MOMENTS, LONG_MOMENTS)
    places = (f" {INSIDE}", f" {OUTSIDE}") if has_moments else ("",)
    result = {
        name: ("counts", label_sums.column(index))
        for index, name in enumerate(counts if has_moments else counts[:1])
    }
    for part, place in enumerate(places):
        group = f"labels{part}"
        result[f"{MEAN}{place}"] = group, lambda s: s[..., 1] / s[..., 0]
        result[f"{DEVIATION}{place}"] = group, label_sums.deviation
        if len(values) <= MAX_VALUES:
            for index, value in enumerate(values):
                name = rating_share(value, place)
                result[name] = f"ratings{part}", label_sums.share_of_column(index)
    if annotators > 1:
        result[ALPHA] = "alpha", label_sums.alpha
        result[PAIRS_PEARSON] = "pairs", lambda s: s[..., 0] / s[..., 1]
        result[PAIRS_SPEARMAN] = "pairs", lambda s: s[..., 2] / s[..., 1]
        result[ALIKE] = "alike", lambda s: s[..., 0] / s[..., 1]
    if not has_moments:
        return result
    if len(sums) <= MAX_VALUES:
        for index, value in enumerate(sums):
            result[sum_share(value)] = "sums", label_sums.share_of_column(index)
    for index, name in enumerate(
        (MEMBERSHIP, AMONG_OUTSIDE, AMONG_QUERIES, AMONG_MOMENTS, AMONG_CLIPS)
    ):
        result[name] = "variance", label_sums.variance_share(index)
    left_inside = [label_sums.variance_share(index) for index in (2, 3, 4)]
    result[LEFT_INSIDE] = "variance", lambda s: sum(share(s) for share in left_inside)
    for level, name in LEVELS.items():
        result[name] = level, label_sums.two_group_share
    result[PLACE] = "place", label_sums.parabola_share
    for name in label_sums.DISTANCES:
        result[PEARSON + name] = name, label_sums.correlation(0)
        result[SPEARMAN + name] = name, label_sums.correlation(3)
    for tenth in range(label_sums.TENTHS):
        result[course_name(tenth)] = "course", label_sums.course(tenth)
    return result


def rating_share(value: float, place: str = "") -> str:
    """The measure that says how many single ratings are `value`."""
    return f"{_RATINGS}{value:g}{place}"


def sum_share(value: float) -> str:
    """The measure that says how many clips inside have ratings whose sum is `value`."""
    return f"{_SUMS}{value:g} {INSIDE}"


def rating_measures(row: Iterable[str]) -> dict[str, str]:
    """The measures of `rating_share`, of what is inside where there are moments, by value."""
    return _by_value(row, _RATINGS)


def sum_measures(row: Iterable[str]) -> dict[str, str]:
    """The measures of `sum_share`, by value."""
    return _by_value(row, _SUMS)


def _by_value(row: Iterable[str], start: str) -> dict[str, str]:
    found = (name for name in row if name.startswith(start) and not name.endswith(OUTSIDE))
    return {name.removeprefix(start).split()[0]: name for name in found}


def course_name(tenth: int) -> str:
    """The measure of the mean label in one tenth of the moments, from 0."""
    return f"mean label at {10 * tenth} to {10 * tenth + 10} % of a moment"


def by_category(entries: Sequence[Measurement]) -> Table:
    """Entries by data set and category, then by measure, in their order."""
    grouped = itertools.groupby(entries, key=lambda entry: (entry.dataset, entry.category))
    return {key: {entry.measure: entry for entry in group} for key, group in grouped}
