"""What is measured on the labels of an annotation file: values and bootstrap intervals.

Every measure is a formula over sums of per-query statistics. So a bootstrap sample costs no second
look at the clips: it is the same formula over the statistics, weighted by how often each video was
drawn.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flashvtg_jax.data.annotations import num_video_clips, youtube_id
from flashvtg_jax.metrics.arithmetic import ranks
from flashvtg_jax.metrics.highlight_detection import RATING_LEVELS

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
DISTANCES = {
    "centre, relative": "distance to the centre / half length",
    "centre, seconds": "distance to the centre in seconds",
    "edge, seconds": "distance to the nearest edge in seconds",
    "start to end": "place from start to end",
}
PEARSON, SPEARMAN = "Pearson correlation, ", "Spearman correlation, "
CLIPS, RATED_INSIDE, UNRATED_INSIDE = "clips", "rated clips inside", "unrated clips inside"
RATED_OUTSIDE, UNRATED_OUTSIDE = "rated clips outside", "unrated clips outside, counted as 0"
MOMENTS, LONG_MOMENTS = "moments", "moments of 3 clips and more"
ANNOTATORS, VIDEOS = "annotators", "source videos"

_RATINGS, _SUMS = "share of ratings of ", "share of label sums of "

TENTHS = 10  # parts of a moment for the course of its labels
MIN_MOMENT_CLIPS = 3  # fewer have no place that is neither edge nor centre
MAX_VALUES = 16  # different ratings or sums of a file up to which each one is counted
RESAMPLES = 1000
SEED = 0

Statistics = Mapping[str, np.ndarray]  # group of measures -> sums, [..., k]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One number of the study; also one line of its CSV."""

    dataset: str
    category: str  # `ALL`, or a domain
    measure: str
    value: float | None  # None: not defined, as the correlation of equal values
    low: float | None  # 95 % bootstrap interval over videos; None where there is none
    high: float | None
    clips: int  # that took part
    queries: int


Row = Mapping[str, Measurement]  # by measure
Table = Mapping[tuple[str, str], Row]  # by data set and category


@dataclasses.dataclass(frozen=True)
class LabelledQuery:
    """What one line says about the clips of its video, L clips and A annotators.

    ratings: [L, A]; NaN: not rated.
    moments: [L] index of the moment that holds the clip's midpoint, -1 outside; the first one,
      where moments overlap. None: the data set has no moments.
    windows: [M, 2] start and end of the moments in seconds.
    """

    video: str
    category: str | None
    ratings: np.ndarray
    moments: np.ndarray | None
    windows: np.ndarray
    clip_length: float


def read_query(row: Mapping[str, Any], clip_length: float) -> LabelledQuery:
    """Reads a checked line with `saliency_scores` and moments, or with `label`.

    As in training, a clip id beyond the video stands for its last clip, and of several ratings of
    one clip the highest sum counts.
    """
    if row.get("saliency_scores") is None:
        ratings = np.asarray(row["label"], np.float64)
        return LabelledQuery(
            row["vid"], row.get("domain"), ratings, None, np.zeros((0, 2)), clip_length
        )
    num_clips = num_video_clips(row["duration"], clip_length)
    scores = row["saliency_scores"]
    ratings = np.full((num_clips, len(scores[0]) if scores else 1), np.nan)
    for clip, score in zip(row["relevant_clip_ids"], scores, strict=True):
        clip = min(clip, num_clips - 1)
        if not sum(score) < ratings[clip].sum():  # NaN: not rated so far
            ratings[clip] = score
    windows = np.asarray(row["relevant_windows"], np.float64).reshape(-1, 2)
    midpoints = (np.arange(num_clips) + 0.5) * clip_length
    moments = np.full(num_clips, -1)
    for index, (start, end) in reversed(list(enumerate(windows))):
        moments[(midpoints >= start) & (midpoints < end)] = index
    video = youtube_id(row["vid"])
    return LabelledQuery(video, row.get("domain"), ratings, moments, windows, clip_length)


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
    found = [_query_statistics(query, values, sums) for query in queries]
    statistics = {group: np.stack([each[group][0] for each in found]) for group in groups}
    clips = {group: np.array([each[group][1] for each in found]) for group in groups}
    videos = np.array([query.video for query in queries])
    categories = np.array([query.category or "" for query in queries])

    result = []
    for category in (ALL, *(name for name in np.unique(categories) if name)):
        chosen = np.ones(len(queries), bool) if category == ALL else categories == category
        names, video_index = np.unique(videos[chosen], return_inverse=True)
        totals = _resampled_totals(
            {group: sums[chosen] for group, sums in statistics.items()}, video_index, len(names)
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


def krippendorff_alpha(ratings: Sequence[Sequence[float]]) -> float:
    """Krippendorff's alpha for interval data: 1 is agreement, 0 what chance would give.

    Args:
      ratings: the ratings of each unit, in any order; a unit rated once does not count.

    Returns:
      NaN where all ratings are equal.
    """
    total = sum((_alpha_statistics(np.asarray([unit], np.float64)) for unit in ratings), start=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(_alpha(np.asarray(total)))


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


# --- formulas: from sums, [..., k], to a value, [...]


def _formulas(
    values: Sequence[float], sums: Sequence[float], annotators: int, has_moments: bool
) -> dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """The measures of a file: name -> group of statistics and formula."""
    counts = (CLIPS, RATED_INSIDE, UNRATED_INSIDE, RATED_OUTSIDE, UNRATED_OUTSIDE)
    counts += (MOMENTS, LONG_MOMENTS)
    places = (f" {INSIDE}", f" {OUTSIDE}") if has_moments else ("",)
    result = {
        name: ("counts", _column(index))
        for index, name in enumerate(counts if has_moments else counts[:1])
    }
    for part, place in enumerate(places):
        group = f"labels{part}"
        result[f"{MEAN}{place}"] = group, lambda s: s[..., 1] / s[..., 0]
        result[f"{DEVIATION}{place}"] = group, _deviation
        if len(values) <= MAX_VALUES:
            for index, value in enumerate(values):
                name = rating_share(value, place)
                result[name] = f"ratings{part}", _share_of_column(index)
    if annotators > 1:
        result[ALPHA] = "alpha", _alpha
        result[PAIRS_PEARSON] = "pairs", lambda s: s[..., 0] / s[..., 1]
        result[PAIRS_SPEARMAN] = "pairs", lambda s: s[..., 2] / s[..., 1]
        result[ALIKE] = "alike", lambda s: s[..., 0] / s[..., 1]
    if not has_moments:
        return result
    if len(sums) <= MAX_VALUES:
        for index, value in enumerate(sums):
            result[sum_share(value)] = "sums", _share_of_column(index)
    for index, name in enumerate(
        (MEMBERSHIP, AMONG_OUTSIDE, AMONG_QUERIES, AMONG_MOMENTS, AMONG_CLIPS)
    ):
        result[name] = "variance", _variance_share(index)
    result[LEFT_INSIDE] = "variance", lambda s: sum(_variance_share(i)(s) for i in (2, 3, 4))
    for level, name in LEVELS.items():
        result[name] = level, _two_group_share
    result[PLACE] = "place", _parabola_share
    for name in DISTANCES:
        result[PEARSON + name] = name, _correlation(0)
        result[SPEARMAN + name] = name, _correlation(3)
    for tenth in range(TENTHS):
        result[course_name(tenth)] = "course", _course(tenth)
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


def _column(index: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda s: s[..., index]


def _share_of_column(index: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda s: s[..., index] / s.sum(-1)


def _course(tenth: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda s: s[..., tenth] / s[..., TENTHS + tenth]


def _deviation(s: np.ndarray) -> np.ndarray:
    count, total, squares = np.moveaxis(s, -1, 0)
    return np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0))


def _alpha(s: np.ndarray) -> np.ndarray:
    differences, count, total, squares = np.moveaxis(s, -1, 0)
    expected = 2 * _positive(count * squares - total**2, count * squares) / (count - 1)
    return 1 - differences / expected


def _variance_share(part: int) -> Callable[[np.ndarray], np.ndarray]:
    """Parts of the sum of squares about the mean of all clips; they add up to 1."""

    def share(s: np.ndarray) -> np.ndarray:
        (inside, total_in, squares_in, by_query, by_moment, outside, total_out, squares_out) = (
            np.moveaxis(s, -1, 0)
        )
        count, total, squares = inside + outside, total_in + total_out, squares_in + squares_out
        mean_in = np.where(inside > 0, total_in**2 / np.maximum(inside, 1), 0.0)
        mean_out = np.where(outside > 0, total_out**2 / np.maximum(outside, 1), 0.0)
        parts = (
            mean_in + mean_out - total**2 / count,
            squares_out - mean_out,
            by_query - mean_in,
            by_moment - by_query,
            squares_in - by_moment,
        )
        # Rounding may leave a part that is nothing just below 0.
        return np.maximum(parts[part], 0.0) / _positive(squares - total**2 / count, squares)

    return share


def _two_group_share(s: np.ndarray) -> np.ndarray:
    """Eta squared of a yes-or-no label: columns are clips and yes inside, clips and yes outside."""
    inside, yes_in, outside, yes_out = np.moveaxis(s, -1, 0)
    count, yes = inside + outside, yes_in + yes_out
    gap = yes_in / np.maximum(inside, 1) - yes_out / np.maximum(outside, 1)
    return gap**2 * inside * outside / count / _positive(yes * (1 - yes / count), yes)


def _correlation(first: int) -> Callable[[np.ndarray], np.ndarray]:
    def correlation(s: np.ndarray) -> np.ndarray:
        products, squares, others = np.moveaxis(s[..., first : first + 3], -1, 0)
        return products / np.sqrt(squares * others)

    return correlation


def _parabola_share(s: np.ndarray) -> np.ndarray:
    """R squared of y on x and x squared, all centred by moment."""
    xx, xz, zz, xy, zy, yy = np.moveaxis(s, -1, 0)
    determinant = _positive(xx * zz - xz**2, xx * zz)
    return (zz * xy**2 - 2 * xz * xy * zy + xx * zy**2) / determinant / yy


def _positive(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """NaN for what is 0 but for rounding."""
    return np.where(values > 1e-12 * scale, values, np.nan)


# --- statistics of one query: group -> sums, and the clips that they are of


def _query_statistics(
    query: LabelledQuery, values: np.ndarray, sums: Sequence[float]
) -> dict[str, tuple[np.ndarray, int]]:
    known = ~np.isnan(query.ratings[:, 0])
    ratings = query.ratings[known]
    labels = ratings.mean(1)
    result = {
        "alpha": (_alpha_statistics(ratings), len(ratings)),
        "alike": (np.array([(np.ptp(ratings, axis=1) == 0).sum(), len(ratings)]), len(ratings)),
        "pairs": _pair_statistics(ratings),
    }
    if query.moments is None:
        return result | {
            "counts": (np.array([len(ratings)]), len(ratings)),
            "labels0": (_moments_of(labels), len(labels)),
            "ratings0": (_value_counts(ratings, values), len(labels)),
        }
    is_inside = query.moments >= 0
    counts = [is_inside & known, is_inside & ~known, ~is_inside & known, ~is_inside & ~known]
    sizes = [(query.moments[known] == index).sum() for index in range(len(query.windows))]
    long = [index for index, size in enumerate(sizes) if size >= MIN_MOMENT_CLIPS]
    numbers = [len(known), *(part.sum() for part in counts), len(query.windows), len(long)]
    filled = np.where(known[:, None], query.ratings, 0.0)
    inside, outside = filled[counts[0]], filled[~is_inside]
    result["counts"] = np.array(numbers), len(known)
    for part, clips in enumerate((inside, outside)):
        result[f"labels{part}"] = _moments_of(clips.mean(1)), len(clips)
        result[f"ratings{part}"] = _value_counts(clips, values), len(clips)
    result["sums"] = _value_counts(inside.sum(1), np.asarray(sums)), len(inside)
    size = len(inside) + len(outside)
    result["variance"] = (
        _variance_statistics(inside.mean(1), query.moments[counts[0]], outside.mean(1)),
        size,
    )
    for level, lowest in RATING_LEVELS.items():
        yes = [(clips >= lowest).mean(1).sum() for clips in (inside, outside)]
        result[level] = np.array([len(inside), yes[0], len(outside), yes[1]]), size
    return result | _place_statistics(query, known, long)


def _moments_of(values: np.ndarray) -> np.ndarray:
    return np.array([values.size, values.sum(), (values**2).sum()])


def _value_counts(numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How many clips have each value, [values], a part of a clip for one of several ratings."""
    counts = np.bincount(np.searchsorted(values, numbers.ravel()), minlength=len(values))
    return counts * (len(numbers) / max(numbers.size, 1))


def _alpha_statistics(ratings: np.ndarray) -> np.ndarray:
    """Squared differences within units, and the ratings' number, sum and sum of squares."""
    raters = ratings.shape[1]
    if raters < 2:
        return np.zeros(4)
    squares = (ratings**2).sum()
    differences = 2 * (raters * squares - (ratings.sum(1) ** 2).sum()) / (raters - 1)
    return np.array([differences, ratings.size, ratings.sum(), squares])


def _pair_statistics(ratings: np.ndarray) -> tuple[np.ndarray, int]:
    """Mean correlation of two annotators: Pearson's, one query, Spearman's.

    Who rates every clip alike correlates with nobody; without a pair nothing is counted.
    """
    varied = ratings[:, np.ptp(ratings, axis=0) > 0] if len(ratings) else ratings[:, :0]
    if varied.shape[1] < 2:
        return np.zeros(3), 0
    ranked = np.stack([ranks(column) for column in varied.T], axis=1)
    upper = np.triu_indices(varied.shape[1], 1)
    pearson, spearman = (np.corrcoef(table.T)[upper].mean() for table in (varied, ranked))
    return np.array([pearson, 1.0, spearman]), len(ratings)


def _variance_statistics(
    inside: np.ndarray, moments: np.ndarray, outside: np.ndarray
) -> np.ndarray:
    """Labels inside, by query and by moment, then outside: what `_variance_share` adds up."""
    by_query = inside.sum() ** 2 / max(len(inside), 1)
    groups = (inside[moments == index] for index in np.unique(moments))
    by_moment = sum(group.sum() ** 2 / len(group) for group in groups)
    return np.array([*_moments_of(inside), by_query, by_moment, *_moments_of(outside)])


def _place_statistics(
    query: LabelledQuery, known: np.ndarray, long: Sequence[int]
) -> dict[str, tuple[np.ndarray, int]]:
    """How labels go with the place in their moment, over the moments `long`."""
    labels, distances = [], {name: [] for name in DISTANCES}
    place, course = np.zeros(6), np.zeros(2 * TENTHS)
    for index in long:
        clips = np.flatnonzero(known & (query.moments == index))
        start, end = query.windows[index]
        middle = (clips + 0.5) * query.clip_length
        from_centre = np.abs(middle - (start + end) / 2)
        where = (middle - start) / (end - start)
        label = query.ratings[clips].mean(1)
        labels.append(label)
        distances["centre, relative"].append(from_centre / ((end - start) / 2))
        distances["centre, seconds"].append(from_centre)
        distances["edge, seconds"].append(np.minimum(middle - start, end - middle))
        distances["start to end"].append(where)
        x, z, y = (_centred(values) for values in (where, where**2, label))
        place += [a @ b for a, b in ((x, x), (x, z), (z, z), (x, y), (z, y), (y, y))]
        half = query.clip_length / 2
        edges = np.stack([middle - half, middle + half])
        course += _course_statistics((edges - start) / (end - start), label)
    size = sum(map(len, labels))
    result = {"place": (place, size), "course": (course, size)}
    for name, values in distances.items():
        sums = np.zeros(6)
        if size:
            x, y = np.concatenate(values), np.concatenate(labels)
            # Ranks as shares of the query's clips: a clip weighs the same in every query.
            pairs = ((x, y), (ranks(x.round(9)) / size, ranks(y.round(9)) / size))
            centred = [(_centred(a), _centred(b)) for a, b in pairs]
            sums = np.array([part for a, b in centred for part in (a @ b, a @ a, b @ b)])
        result[name] = sums, size
    return result


def _centred(values: np.ndarray) -> np.ndarray:
    """Values less their mean; what is 0 but for rounding is 0."""
    result = values - values.mean()
    result[np.abs(result) < 1e-12 * max(1.0, np.abs(values).max())] = 0.0
    return result


def _course_statistics(edges: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean label in each tenth of one moment, 0 where none is known, then 1 where one is.

    Args:
      edges: [2, N] where each clip starts and ends, the moment going from 0 to 1. A clip counts in
        a tenth by the time that it covers of it.
      labels: [N].
    """
    bounds = np.linspace(0, 1, TENTHS + 1)
    covered = np.minimum(edges[1], bounds[1:, None]) - np.maximum(edges[0], bounds[:-1, None])
    weights = np.where(covered > 1e-9, covered, 0.0)
    total = weights.sum(1)
    means = weights @ labels / np.where(total > 0, total, 1.0)
    return np.concatenate([means, total > 0])


def by_category(entries: Sequence[Measurement]) -> Table:
    """Entries by data set and category, then by measure, in their order."""
    grouped = itertools.groupby(entries, key=lambda entry: (entry.dataset, entry.category))
    return {key: {entry.measure: entry for entry in group} for key, group in grouped}
