"""Means and bootstrap intervals, by hand and on simulated data whose truth is known."""

import itertools
import time

import numpy as np
import pytest

from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.studies.statistics import (
    Difference,
    on_common_queries,
    paired_bootstrap,
    seed_means,
)

NAN = np.nan


def values_of(seeds=3, queries=40, seed=0):
    return np.random.default_rng(seed).uniform(0, 100, (seeds, queries))


def test_the_number_of_a_seed_is_the_mean_over_queries_that_count():
    values = np.array([[10.0, NAN, 30.0], [20.0, NAN, 60.0]])
    np.testing.assert_allclose(seed_means(values), [20.0, 40.0])
    assert np.isnan(seed_means(np.full((2, 3), NAN))).all()


def test_groups_weigh_the_same_whatever_their_size():
    values = np.array([[10.0, 20.0, 30.0, 80.0, NAN]])
    groups = np.array(["dog", "dog", "dog", "surfing", "skiing"])
    np.testing.assert_allclose(seed_means(values, groups=groups), [50.0])  # of 20 and 80


def test_identical_values_differ_by_nothing():
    assert paired_bootstrap(values_of(), values_of()) == Difference(0.0, 0.0, 0.0)


def test_a_constant_shift_is_known_exactly():
    # Eighths, so that no sum is rounded.
    reference = np.round(8 * values_of()) / 8
    groups = np.repeat(["a", "b"], [10, 30])
    for kind in (None, groups):
        result = paired_bootstrap(reference - 2.5, reference, groups=kind)
        assert result == Difference(-2.5, -2.5, -2.5)


def test_the_difference_is_that_of_the_means():
    values, reference = values_of(seed=1), values_of(seed=2)
    result = paired_bootstrap(values, reference)
    assert result.difference == pytest.approx(values.mean() - reference.mean())
    assert result.low < result.difference < result.high


def test_draws_follow_from_the_seed_alone():
    values, reference = values_of(seed=1), values_of(seed=2)
    first = paired_bootstrap(values, reference, seed=5)
    assert paired_bootstrap(values, reference, seed=5) == first
    assert paired_bootstrap(values, reference, seed=6) != first
    # Queries that do not count change nothing.
    wide, wide_reference = np.full((3, 60), NAN), np.full((3, 60), NAN)
    wide[:, 10:50], wide_reference[:, 10:50] = values, reference
    assert paired_bootstrap(wide, wide_reference, seed=5) == first


def test_interval_equals_a_plain_loop_over_samples():
    values, reference = values_of(4, 25, seed=1), values_of(4, 25, seed=2)
    rng = np.random.default_rng(7)
    samples = []
    for _ in range(4000):
        seeds, queries = rng.integers(4, size=4), rng.integers(25, size=25)
        drawn = np.ix_(seeds, queries)
        samples.append(values[drawn].mean() - reference[drawn].mean())
    result = paired_bootstrap(values, reference, num_samples=4000)
    expected = np.quantile(samples, [0.025, 0.975])
    # Percentiles of 4000 samples, whose deviation is 5.6 here, deviate by 0.25.
    np.testing.assert_allclose([result.low, result.high], expected, atol=1.0)


def test_groups_are_drawn_within_themselves():
    # All that differs is the group: no draw within groups changes the mean.
    difference = np.tile([1.0, 1.0, 1.0, 5.0, 5.0], (2, 1))
    groups = np.array([0, 0, 0, 1, 1])
    reference = values_of(2, 5).round()
    assert paired_bootstrap(reference + difference, reference, groups=groups) == Difference(3, 3, 3)
    without = paired_bootstrap(reference + difference, reference)
    assert without.low < without.difference < without.high


def test_a_higher_level_is_a_wider_interval():
    values, reference = values_of(seed=1), values_of(seed=2)
    half = paired_bootstrap(values, reference, level=0.5)
    most = paired_bootstrap(values, reference, level=0.99)
    assert most.low < half.low < half.high < most.high


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    # Queries of different difficulty, which both variants share, and noise of their own.
    rng = np.random.default_rng(0)
    simulations, held, seeds, queries, true = 300, 0, 5, 80, 1.5
    for _ in range(simulations):
        difficulty = rng.normal(50, 20, queries)
        effect = true + rng.normal(0, 6, queries)  # differs from query to query
        of_seed = rng.normal(0, 0.3, (2, seeds, 1))
        noise = rng.normal(0, 4, (2, seeds, queries))
        values, reference = difficulty + np.stack([effect, 0 * effect])[:, None] + of_seed + noise
        result = paired_bootstrap(values, reference, num_samples=400)
        held += result.low <= true <= result.high
    assert 0.91 <= held / simulations <= 0.98


def draws_of(parts):
    """The mean of each draw with replacement of as many parts as there are, all of them."""
    return [
        np.concatenate([parts[place] for place in drawn]).mean()
        for drawn in itertools.product(range(len(parts)), repeat=len(parts))
    ]


def of_two_seeds(differences):
    """Values and reference of seeds that do not differ, so that only queries are drawn."""
    reference = np.zeros((2, len(differences)))
    return reference + differences, reference


def test_whole_clusters_are_drawn_and_the_mean_is_over_their_queries():
    parts = [[1.0, 2.0, 3.0, 2.0], [8.0], [4.0, 6.0], [-3.0], [0.0, 1.0, 5.0]]
    names = np.repeat([f"video {index}" for index in range(5)], [len(part) for part in parts])
    values, reference = of_two_seeds(np.concatenate(parts))
    order = np.random.default_rng(0).permutation(len(names))  # wherever queries stand
    result = paired_bootstrap(
        values[:, order], reference[:, order], clusters=list(names[order]), num_samples=20_000
    )
    assert result.difference == pytest.approx(29 / 11)  # over queries, not over clusters
    expected = np.quantile(draws_of(parts), [0.025, 0.975])
    np.testing.assert_allclose([result.low, result.high], expected, atol=0.1)


def test_without_clusters_each_query_is_one():
    values, reference = values_of(seed=1), values_of(seed=2)
    names = [f"{index:02}" for index in range(40)]
    expected = paired_bootstrap(values, reference)
    assert paired_bootstrap(values, reference, clusters=names) == expected


def test_clusters_are_drawn_within_groups():
    # Clusters of a group are alike: no draw within groups changes the mean.
    values, reference = of_two_seeds(np.array([1.0, 1.0, 1.0, 5.0, 5.0, 5.0, 5.0]))
    groups, clusters = np.array([0, 0, 0, 1, 1, 1, 1]), np.array(list("aabcddf"))
    result = paired_bootstrap(values, reference, groups=groups, clusters=clusters)
    assert result == Difference(3, 3, 3)


def test_groups_are_drawn_where_one_has_a_single_cluster():
    # Five domains, their means 1, 8, 5, -3 and 2; the third has two videos, the others one.
    parts = [[1.0], [8.0], [4.0, 6.0], [-3.0], [0.0, 4.0]]
    groups = np.repeat(np.arange(5), [len(part) for part in parts])
    clusters = np.array(["a", "b", "c", "d", "e", "f", "f"])
    values, reference = of_two_seeds(np.concatenate(parts))
    result = paired_bootstrap(
        values, reference, groups=groups, clusters=clusters, num_samples=20_000
    )
    assert result.difference == pytest.approx(13 / 5)
    expected = np.quantile(draws_of([[1.0], [8.0], [5.0], [-3.0], [2.0]]), [0.025, 0.975])
    np.testing.assert_allclose([result.low, result.high], expected, atol=0.2)


def test_of_few_things_to_draw_there_is_no_interval():
    values, reference = values_of(2, 12, seed=1), values_of(2, 12, seed=2)
    difference = pytest.approx((values - reference).mean())
    four = np.repeat(list("abcd"), 3)
    assert paired_bootstrap(values, reference, clusters=four) == Difference(difference, None, None)
    of_four = {"groups": four, "clusters": four}  # four domains of one video
    assert paired_bootstrap(values, reference, **of_four) == Difference(difference, None, None)
    five = np.repeat(list("abcde"), [2, 2, 2, 3, 3])
    assert paired_bootstrap(values, reference, clusters=five).low is not None
    # What counts is what is left: of the fifth cluster no query counts.
    values[:, five == "e"] = reference[:, five == "e"] = NAN
    assert paired_bootstrap(values, reference, clusters=five).low is None


def coverage(simulate, true, simulations=300):
    """How often the interval of `simulate(rng)`, arguments of a bootstrap, holds the truth."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(simulations):
        values, reference, drawn = simulate(rng)
        result = paired_bootstrap(values, reference, num_samples=400, **drawn)
        held += result.low <= true <= result.high
    return held / simulations


@pytest.mark.parametrize("with_clusters", [True, False])
def test_the_interval_of_queries_that_share_videos_needs_their_videos(with_clusters):
    videos, seeds, true = 60, 3, 1.5

    def simulate(rng):
        # Videos of one to seven queries, and a difference that the queries of one share.
        sizes = rng.integers(1, 8, videos)
        clusters = np.repeat(np.arange(videos), sizes)
        effect = true + rng.normal(0, 6, videos)[clusters] + rng.normal(0, 3, len(clusters))
        reference = rng.normal(50, 4, (seeds, len(clusters)))
        values = reference + effect + rng.normal(0, 2, reference.shape)
        return values, reference, {"clusters": clusters if with_clusters else None}

    if with_clusters:
        assert 0.91 <= coverage(simulate, true) <= 0.98
    else:
        assert coverage(simulate, true) < 0.80


def test_the_interval_of_domains_with_single_videos_holds_the_true_difference():
    domains, seeds, true = 20, 3, 1.5

    def simulate(rng):
        effect = true + rng.normal(0, 6, domains)
        reference = rng.normal(50, 4, (seeds, domains))
        values = reference + effect + rng.normal(0, 2, reference.shape)
        return values, reference, {"groups": np.arange(domains)}

    assert 0.88 <= coverage(simulate, true) <= 0.98


def test_the_interval_of_domains_with_many_videos_holds_the_true_difference():
    domains, videos, seeds = 4, 15, 3
    groups = np.repeat(np.arange(domains), 2 * videos)
    clusters = np.repeat(np.arange(domains * videos), 2)
    of_domains = np.array([-9.0, 0.0, 5.0, 10.0])  # the same in every simulation

    def simulate(rng):
        effect = of_domains[groups] + rng.normal(0, 6, domains * videos)[clusters]
        reference = rng.normal(50, 4, (seeds, len(groups)))
        values = reference + effect + rng.normal(0, 2, reference.shape)
        return values, reference, {"groups": groups, "clusters": clusters}

    assert 0.91 <= coverage(simulate, of_domains.mean()) <= 0.98


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(50, 20, 100)
    reference = difficulty + rng.normal(0, 2, (3, 100))
    values = difficulty + 1.0 + rng.normal(0, 2, (3, 100))
    paired = paired_bootstrap(values, reference)
    unpaired = paired_bootstrap(values, rng.permutation(reference, axis=1))
    assert paired.difference == pytest.approx(unpaired.difference)
    assert 4 * (paired.high - paired.low) < unpaired.high - unpaired.low
    assert paired.low > 0 > unpaired.low


def test_more_spread_between_seeds_is_a_wider_interval():
    values, reference = values_of(4, seed=1), values_of(4, seed=2)
    steady = paired_bootstrap(values, reference)
    moved = values + np.array([-20.0, -10.0, 10.0, 20.0])[:, None]
    spread = paired_bootstrap(moved, reference)
    assert spread.high - spread.low > 1.2 * (steady.high - steady.low)


def test_where_no_query_counts_there_is_no_difference():
    result = paired_bootstrap(np.full((2, 3), NAN), np.full((2, 3), NAN))
    assert np.isnan(result.difference) and result.low is result.high is None


def test_one_seed_has_no_interval():
    with pytest.raises(ConfigError, match=r"1 seed: .* use --seeds=2 or more"):
        paired_bootstrap(values_of(1), values_of(1))


def test_what_is_compared_is_of_the_same_seeds_and_queries():
    with pytest.raises(DataError, match=r"must be the same: \[3, 40\] and \[2, 40\]"):
        paired_bootstrap(values_of(3), values_of(2))
    reference = values_of()
    values = reference.copy()
    values[:, 3] = NAN
    with pytest.raises(
        DataError, match="1 of 40 queries count for the variant or for its reference"
    ):
        paired_bootstrap(values, reference)
    some = reference.copy()
    some[1, 5] = NAN
    with pytest.raises(DataError, match="1 of 40 queries count in some of the seeds only"):
        paired_bootstrap(some, some)
    with pytest.raises(DataError, match="2 groups for 40 queries"):
        seed_means(reference, groups=np.array(["a", "b"]))
    with pytest.raises(DataError, match="2 clusters for 40 queries"):
        paired_bootstrap(reference, reference, clusters=["a", "b"])
    with pytest.raises(DataError, match=r"expected values \[seeds, queries\]"):
        seed_means(np.zeros(3))


def test_common_queries_are_those_that_count_everywhere():
    first, second = on_common_queries(
        [np.array([[1.0, NAN, 3.0], [4.0, 5.0, 6.0]]), np.array([[7.0, 8.0, 9.0], [1.0, 2.0, NAN]])]
    )
    np.testing.assert_array_equal(first, [[1.0, NAN, NAN], [4.0, NAN, NAN]])
    np.testing.assert_array_equal(second, [[7.0, NAN, NAN], [1.0, NAN, NAN]])


def test_the_queries_of_a_data_set_take_no_time():
    values, reference = values_of(2, 1550, seed=1), values_of(2, 1550, seed=2)
    clusters = [f"video {index % 474}" for index in range(1550)]
    start = time.perf_counter()
    paired_bootstrap(values, reference)
    paired_bootstrap(values, reference, clusters=clusters)
    assert time.perf_counter() - start < 4.0
