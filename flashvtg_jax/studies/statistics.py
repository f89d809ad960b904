"""Means, deviations and intervals of a metric over seeds and queries."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from flashvtg_jax.errors import ConfigError, DataError

NUM_SAMPLES = 2000
LEVEL = 0.95
FEWEST_DRAWN = 5  # clusters or groups; of fewer, samples say too little for an interval


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference of two means and its interval, in the unit of the values."""

    difference: float
    low: float | None  # None where too little can be drawn
    high: float | None


def seed_means(values: np.ndarray, *, groups: np.ndarray | None = None) -> np.ndarray:
    """The metric of each seed [S]: its mean over the queries that count.

    Args:
      values: [S, N], NaN where a query does not count, which it does in all seeds or in none.
      groups: [N]; the metric is the mean over groups of the group's mean. None: all are one.

    Returns:
      [S] float64, NaN where no query counts.

    Raises:
      DataError: a query counts in some of the seeds only, or shapes do not fit.
    """
    values, parts = _counted_by_group(values, groups)
    if not parts:
        return np.full(len(values), np.nan)
    return np.mean([values[:, part].mean(axis=1) for part in parts], axis=0)


def on_common_queries(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Arrays [..., N] with NaN for each query that is NaN anywhere in any of them.

    For metrics whose predictions decide whether a query counts, such as the rank correlation of
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
    clusters: Sequence[str] | np.ndarray | None = None,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Difference:
    """The difference of two variants' means over seeds and queries, and its bootstrap interval.

    Seed i of the one is paired with seed i of the other, a query with itself. Each sample draws
    as many pairs of seeds and as many whole clusters of queries as there are, with replacement,
    and takes the mean difference of the drawn queries; the interval lies between percentiles of
    the samples. Clusters are drawn within their group. Where a group has only one, which would be
    drawn each time, the means of groups are drawn instead, as if the groups were a sample too.

    What it covers: other videos like these, and other seeds so far as these few show their
    spread. S seeds show (S - 1) / S of its variance, and two or three cannot bound it: were the
    seeds all that differs, the interval of two would hold the true difference half of the time.
    The same goes for clusters within small groups. It does not cover other data sets or settings.

    Args:
      values: [S, N] of the variant, NaN where a query does not count.
      reference: [S, N] of what it is compared with, NaN in the same places.
      groups: [N], as of `seed_means`. None: all are one.
      clusters: [N], the source video of each query: queries of one have much in common, so that
        they are no independent draws. None: each query is a cluster of its own.
      num_samples: of the bootstrap.
      seed: of its draws, which follow from it alone.
      level: share of the samples that the interval holds, between 0 and 1.

    Returns:
      The difference, values minus reference, NaN where no query counts, and its interval. There
      is none where fewer than five clusters, or groups, are there to draw from.

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
    difference = float(seed_means(differences, groups=groups).mean())
    names = np.arange(values.shape[-1]) if clusters is None else np.asarray(clusters)
    _check_names(names, differences, "clusters")
    strata = [_sums_by_name(differences[:, part], names[part]) for part in parts]
    if any(len(sizes) < 2 for _, sizes in strata):
        strata = [_as_one(strata)]
    if sum(len(sizes) for _, sizes in strata) < FEWEST_DRAWN:
        return Difference(difference, None, None)
    num_seeds = len(differences)
    rng = np.random.default_rng(seed)
    drawn_seeds = _draw_counts(rng, num_seeds, num_samples)
    means = []  # of the drawn queries of each stratum, [samples, S]
    for sums, sizes in strata:
        drawn = _draw_counts(rng, len(sizes), num_samples)
        means.append(drawn @ sums / (drawn @ sizes)[:, None])
    samples = (drawn_seeds * np.mean(means, axis=0)).sum(axis=1) / num_seeds
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Difference(difference, float(low), float(high))


def _sums_by_name(values: np.ndarray, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of values [S, N] over the queries of each of K names [K, S], and their counts [K]."""
    _, places, counts = np.unique(names, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), len(values)))
    np.add.at(sums, places, values.T)
    return sums, counts.astype(np.float64)


def _as_one(strata: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """A stratum whose clusters are the means of strata, all of the same weight."""
    means = np.stack([sums.sum(axis=0) / sizes.sum() for sums, sizes in strata])
    return means, np.ones(len(means))


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
    _check_names(groups, values, "groups")
    return values, [counted[groups[counted] == name] for name in np.unique(groups[counted])]


def _check_names(names: np.ndarray, values: np.ndarray, kind: str) -> None:
    if names.shape != values.shape[1:]:
        raise DataError(f"{len(names)} {kind} for {values.shape[1]} queries; expected one for each")


def _draw_counts(rng: np.random.Generator, size: int, num_samples: int) -> np.ndarray:
    """How often each of `size` things is drawn in `size` draws with replacement, [samples, size].

    Whole numbers as float64, for products with them.
    """
    drawn = rng.integers(size, size=(num_samples, size))
    drawn += size * np.arange(num_samples)[:, None]
    counts = np.bincount(drawn.reshape(-1), minlength=num_samples * size)
    return counts.reshape(num_samples, size).astype(np.float64)
