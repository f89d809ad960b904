"""From the labels of one query to sums, and from sums to values.

Every measure of `label_measures` is a formula over sums of per-query statistics: those of one query
are taken here, and the formulas hold for the sums over any choice of queries.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flashvtg_jax.clips import num_video_clips
from flashvtg_jax.metrics.arithmetic import ranks
from flashvtg_jax.metrics.highlight_detection import RATING_LEVELS
from flashvtg_jax.video_ids import youtube_id

TENTHS = 10  # parts of a moment for the course of its labels
MIN_MOMENT_CLIPS = 3  # fewer have no place that is neither edge nor centre
DISTANCES = {
    "centre, relative": "distance to the centre / half length",
    "centre, seconds": "distance to the centre in seconds",
    "edge, seconds": "distance to the nearest edge in seconds",
    "start to end": "place from start to end",
}


@dataclasses.dataclass(frozen=True)
class LabelledQuery:
    """The labels of one line of a file, for L clips and A annotators.

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


# --- statistics of one query: group -> sums, and the clips that they are of


def query_sums(
    query: LabelledQuery, values: np.ndarray, sums: Sequence[float]
) -> dict[str, tuple[np.ndarray, int]]:
    """What the formulas add up over queries: group of measures -> sums, and clips that took part.

    Args:
      query: of the file.
      values: every single rating of the file, ascending.
      sums: every sum of a clip's ratings in the file, ascending; () without moments.
    """
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

    An annotator who rates every clip alike is left out; without a pair nothing is counted.
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
    """Labels inside, by query and by moment, then outside: what `variance_share` adds up."""
    by_query = inside.sum() ** 2 / max(len(inside), 1)
    groups = (inside[moments == index] for index in np.unique(moments))
    by_moment = sum(group.sum() ** 2 / len(group) for group in groups)
    return np.array([*_moments_of(inside), by_query, by_moment, *_moments_of(outside)])


def _place_statistics(
    query: LabelledQuery, known: np.ndarray, long: Sequence[int]
) -> dict[str, tuple[np.ndarray, int]]:
    """How labels depend on the position in their moment, over the moments `long`."""
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


# --- formulas: from sums, [..., k], to a value, [...]


def column(index: int) -> Callable[[np.ndarray], np.ndarray]:
    """The sum itself: a number of clips or moments."""
    return lambda s: s[..., index]


def share_of_column(index: int) -> Callable[[np.ndarray], np.ndarray]:
    """One column's part of the sum of all: how often one value is taken."""
    return lambda s: s[..., index] / s.sum(-1)


def course(tenth: int) -> Callable[[np.ndarray], np.ndarray]:
    """The mean label in one tenth of the moments."""
    return lambda s: s[..., tenth] / s[..., TENTHS + tenth]


def deviation(s: np.ndarray) -> np.ndarray:
    """Standard deviation, from number, sum and sum of squares."""
    count, total, squares = np.moveaxis(s, -1, 0)
    return np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0))


def alpha(s: np.ndarray) -> np.ndarray:
    """Krippendorff's alpha, from what `_alpha_statistics` adds up."""
    differences, count, total, squares = np.moveaxis(s, -1, 0)
    expected = 2 * _positive(count * squares - total**2, count * squares) / (count - 1)
    return 1 - differences / expected


def krippendorff_alpha(ratings: Sequence[Sequence[float]]) -> float:
    """Krippendorff's alpha for interval data: 1 is agreement, 0 what chance would give.

    The plain coefficient, of ratings from anywhere: `alpha` of the sums of units that may differ in
    their number of ratings.

    Args:
      ratings: the ratings of each unit, in any order; a unit rated once does not count.

    Returns:
      NaN where all ratings are equal.
    """
    total = sum((_alpha_statistics(np.asarray([unit], np.float64)) for unit in ratings), start=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(alpha(np.asarray(total)))


def variance_share(part: int) -> Callable[[np.ndarray], np.ndarray]:
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


def two_group_share(s: np.ndarray) -> np.ndarray:
    """Eta squared of a yes-or-no label: columns are clips and yes inside, clips and yes outside."""
    inside, yes_in, outside, yes_out = np.moveaxis(s, -1, 0)
    count, yes = inside + outside, yes_in + yes_out
    gap = yes_in / np.maximum(inside, 1) - yes_out / np.maximum(outside, 1)
    return gap**2 * inside * outside / count / _positive(yes * (1 - yes / count), yes)


def correlation(first: int) -> Callable[[np.ndarray], np.ndarray]:
    """Pearson's, of centred values: products, squares, other squares from column `first` on."""

    def of_sums(s: np.ndarray) -> np.ndarray:
        products, squares, others = np.moveaxis(s[..., first : first + 3], -1, 0)
        return products / np.sqrt(squares * others)

    return of_sums


def parabola_share(s: np.ndarray) -> np.ndarray:
    """R squared of y on x and x squared, all centred by moment."""
    xx, xz, zz, xy, zy, yy = np.moveaxis(s, -1, 0)
    determinant = _positive(xx * zz - xz**2, xx * zz)
    return (zz * xy**2 - 2 * xz * xy * zy + xx * zy**2) / determinant / yy


def _positive(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """NaN for what is 0 but for rounding."""
    return np.where(values > 1e-12 * scale, values, np.nan)
