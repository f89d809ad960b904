"""Means, deviations and intervals of what the queries of several seeds have in a number."""

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np

from flashvtg_jax.errors import ConfigError, DataError

NUM_SAMPLES = 2000
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference of two means and its interval, in the unit of the values."""

    difference: float
    low: float
    high: float


def seed_means(values: np.ndarray, *, groups: np.ndarray | None = None) -> np.ndarray:
    """The number of each seed [S]: its mean over the queries that count.

    Args:
      values: [S, N], NaN where a query does not count, which it does in all seeds or in none.
      groups: [N]; the number is the mean over groups of the group's mean. None: all are one.

    Returns:
      [S] float64, NaN where no query counts.

    Raises:
      DataError: a query counts in some of the seeds only, or shapes do not fit.
    """
    values, parts = _counted_by_group(values, groups)
    if not parts:
        return np.full(len(values), np.nan)
    return np.mean([values[:, part].mean(axis=1) for part in parts], axis=0)


def mean_and_std(numbers: Sequence[float] | np.ndarray) -> tuple[float, float | None]:
    """The mean and the sample standard deviation of a number over seeds, [S].

    The deviation divides by S - 1 and is None of a single seed. Where a number is NaN, as of no
    query, so is the mean, without deviation. Raises DataError for no seeds.
    """
    numbers = [float(number) for number in numbers]
    if not numbers:
        raise DataError("no seeds to take the mean of")
    if any(np.isnan(numbers)):
        return np.nan, None
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None


def on_common_queries(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Arrays [..., N] with NaN for each query that is NaN anywhere in any of them.

    For numbers whose predictions decide whether a query counts, such as the rank correlation of
    scores: what is compared must be of the same queries.
    """
    missing = np.zeros(values[0].shape[-1], bool)
    for one in values:
        missing |= np.isnan(one).reshape(-1, one.shape[-1]).any(axis=0)
    return [np.where(missing, np.nan, one) for one in values]


def paired_bootstrap(
    values: np.ndarray,
    reference: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Difference:
    """The difference of two variants' means over seeds and queries, and its bootstrap interval.

    Seed i of the one is paired with seed i of the other, a query with itself. Each sample draws
    as many pairs of seeds and as many queries as there are, with replacement, and takes the mean
    difference; the interval lies between percentiles of the samples.

    What it covers: other queries like these, and other seeds so far as these few show their
    spread. S seeds show (S - 1) / S of its variance, and two or three cannot bound it: were the
    seeds all that differs, the interval of two would hold the true difference half of the time.
    It does not cover other data sets or settings. A group of a single query is always drawn.

    Args:
      values: [S, N] of the variant, NaN where a query does not count.
      reference: [S, N] of what it is compared with, NaN in the same places.
      groups: [N], as of `seed_means`; queries are drawn within their group. None: all are one.
      num_samples: of the bootstrap.
      seed: of its draws, which follow from it alone.
      level: share of the samples that the interval holds, between 0 and 1.

    Returns:
      The difference, values minus reference, and its interval; all NaN where no query counts.

    Raises:
      ConfigError: there are fewer than two seeds.
      DataError: the two differ in shape or in the queries that count.
    """
    values, reference = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    if values.shape != reference.shape:
        raise DataError(
            "the seeds and queries of a variant and its reference must be the same: "
            f"{list(values.shape)} and {list(reference.shape)} values"
        )
    if len(values) < 2:
        raise ConfigError(
            f"{len(values)} seed: an interval needs the spread between seeds; use --seeds=2 or more"
        )
    differing = (np.isnan(values) != np.isnan(reference)).reshape(-1, values.shape[-1])
    if differing.any():
        raise DataError(
            f"{differing.any(axis=0).sum()} of {values.shape[-1]} queries count for the variant "
            "or for its reference only: their means are not of the same queries"
        )
    differences, parts = _counted_by_group(values - reference, groups)
    if not parts:
        return Difference(np.nan, np.nan, np.nan)
    num_seeds = len(differences)
    rng = np.random.default_rng(seed)
    drawn_seeds = _draw_counts(rng, num_seeds, num_samples)
    # [samples, S], of each seed the number that the drawn queries give.
    drawn_numbers = np.mean(
        [
            _draw_counts(rng, len(part), num_samples) @ differences[:, part].T / len(part)
            for part in parts
        ],
        axis=0,
    )
    samples = (drawn_seeds * drawn_numbers).sum(axis=1) / num_seeds
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    difference = seed_means(differences, groups=groups).mean()
    return Difference(float(difference), float(low), float(high))


def _counted_by_group(
    values: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Values as float64 [S, N], and of each group the indices of its queries that count."""
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.size:
        raise DataError(f"expected values [seeds, queries], at least one; got {list(values.shape)}")
    missing = np.isnan(values)
    if (missing != missing[0]).any():
        raise DataError(
            f"{(missing != missing[0]).any(axis=0).sum()} of {values.shape[1]} queries count in "
            "some of the seeds only: the seeds' means are not of the same queries"
        )
    counted = np.flatnonzero(~missing[0])
    if groups is None:
        return values, [counted] if len(counted) else []
    groups = np.asarray(groups)
    if groups.shape != values.shape[1:]:
        raise DataError(
            f"{len(groups)} groups for {values.shape[1]} queries; expected one for each"
        )
    return values, [counted[groups[counted] == name] for name in np.unique(groups[counted])]


def _draw_counts(rng: np.random.Generator, size: int, num_samples: int) -> np.ndarray:
    """How often each of `size` things is drawn in `size` draws with replacement, [samples, size].

    Whole numbers as float64, for products with them.
    """
    drawn = rng.integers(size, size=(num_samples, size))
    drawn += size * np.arange(num_samples)[:, None]
    counts = np.bincount(drawn.reshape(-1), minlength=num_samples * size)
    return counts.reshape(num_samples, size).astype(np.float64)
