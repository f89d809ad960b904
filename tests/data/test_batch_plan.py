import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest

from flashvtg_jax.data.batch_plan import (
    PADDING_ROW,
    BatchPlan,
    PlannedBatch,
    default_buckets,
    padding_fraction,
    plan_padding,
)
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.json_lines import read_json_lines

BUCKETS = (4, 9, 20)


def lengths(num_examples: int = 53) -> np.ndarray:
    return np.random.default_rng(5).integers(1, 21, num_examples)


def rows(batches) -> list[list[int]]:
    return [batch.examples.tolist() for batch in batches]


def real(batches) -> list[int]:
    return [row for row in itertools.chain(*rows(batches)) if row != PADDING_ROW]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 8, 53, 64])
def test_every_example_is_in_an_epoch_once_within_its_bucket(shuffle, batch_size):
    plan = BatchPlan(lengths(), BUCKETS, batch_size, seed=3, shuffle=shuffle)
    for epoch in range(3):
        batches = plan.epoch(epoch)
        assert len(batches) == plan.steps_per_epoch == -(-53 // batch_size)
        assert sorted(real(batches)) == list(range(53))
        for batch in batches:
            assert batch.length in BUCKETS
            assert batch.examples.shape == (batch_size,)
            assert plan.lengths[batch.examples[batch.examples >= 0]].max() <= batch.length


def test_only_the_last_of_the_shortest_batches_is_padded_and_its_padding_is_at_the_end():
    padded = set()
    for epoch in range(8):
        batches = BatchPlan(lengths(), BUCKETS, 8, seed=3).epoch(epoch)
        shortest = [batch for batch in batches if batch.length == min(b.length for b in batches)]
        assert (shortest[-1].examples[:5] >= 0).all()  # 53 = 6 * 8 + 5
        assert shortest[-1].examples[5:].tolist() == [PADDING_ROW] * 3
        assert sum((batch.examples >= 0).all() for batch in batches) == 6
        padded.add([(batch.examples >= 0).all() for batch in batches].index(False))
    assert len(padded) > 1


def test_with_one_bucket_the_padded_batch_is_the_last_and_the_order_is_the_seeds():
    for drop_last, num_rows in ((False, 53), (True, 48)):
        plan = BatchPlan(np.full(53, 7), BUCKETS, 8, seed=3, drop_last=drop_last)
        order = np.random.default_rng([3, 2, 0, 1]).permutation(53)
        assert real(plan.epoch(2)) == order[:num_rows].tolist()
        assert list(itertools.chain(*rows(plan.epoch(2))))[:num_rows] == real(plan.epoch(2))


def test_a_bucket_is_mixed_with_others_in_two_batches_at_most():
    plan = BatchPlan(lengths(400), BUCKETS, 8, seed=3)
    bucket_of = np.searchsorted(BUCKETS, plan.lengths)
    for bucket in range(3):
        batches = [batch.examples for batch in plan.epoch(0) if bucket in bucket_of[batch.examples]]
        assert sum((bucket_of[examples] != bucket).any() for examples in batches) <= 2


def test_no_other_batches_of_that_number_compute_fewer_clips():
    examples = lengths(11)
    plan = BatchPlan(examples, BUCKETS, 4, seed=3)
    computed = sum(4 * batch.length for batch in plan.epoch(0))
    padded = np.take(BUCKETS, np.searchsorted(BUCKETS, examples)).tolist()

    def fewest(remaining: tuple[int, ...]) -> int:
        if not remaining:
            return 0
        first, *others = remaining
        return min(
            4 * max(first, *group) + fewest(tuple(left))
            for group in itertools.combinations([*others, 0], 3)
            for left in [_without(others, group)]
            if len(left) <= 4 * (-(-len(remaining) // 4) - 1)
        )

    assert computed == fewest(tuple(sorted(padded)))


def _without(values: list[int], group: tuple[int, ...]) -> list[int]:
    left = list(values)
    for value in group:
        if value:
            left.remove(value)
    return left


def test_batches_of_all_lengths_alternate():
    batches = BatchPlan([2, 7] * 40, BUCKETS, 8, seed=3).epoch(0)
    lengths = [batch.length for batch in batches]
    assert lengths not in (sorted(lengths), sorted(lengths, reverse=True))


@pytest.mark.parametrize("drop_last", [True, False])
def test_the_lengths_of_the_batches_do_not_depend_on_the_seed(drop_last):
    plans = [
        BatchPlan(lengths(), BUCKETS, 4, seed=seed, drop_last=drop_last) for seed in (3, 4, 2024)
    ]
    sequences = set()
    for epoch in range(20):
        first, *others = ([batch.length for batch in plan.epoch(epoch)] for plan in plans)
        assert all(other == first for other in others)
        sequences.add(tuple(first))
        assert len({tuple(real(plan.epoch(epoch))) for plan in plans}) == 3
    assert len(sequences) > 1


def test_the_plan_is_a_function_of_seed_and_epoch():
    plan = BatchPlan(lengths(), BUCKETS, 8, seed=3)
    again = BatchPlan(lengths(), BUCKETS, 8, seed=3)
    assert rows(again.epoch(2)) == rows(plan.epoch(2))  # without epochs 0 and 1 before it
    assert rows(plan.epoch(0)) != rows(plan.epoch(1))
    assert rows(BatchPlan(lengths(), BUCKETS, 8, seed=4).epoch(0)) != rows(plan.epoch(0))


def test_steps_count_through_the_epochs():
    plan = BatchPlan(lengths(), BUCKETS, 8, seed=3)
    for step in (0, 6, 7, 20):
        epoch, batch = plan.batch(step)
        assert epoch == step // 7
        assert batch.examples.tolist() == plan.epoch(epoch)[step % 7].examples.tolist()


def test_without_shuffling_batches_go_from_long_to_short_in_the_order_of_the_split():
    plan = BatchPlan([7, 2, 20, 3, 8, 1, 5], BUCKETS, 2, shuffle=False)
    batches = plan.epoch(0)
    assert rows(batches) == [[2, 0], [4, 6], [1, 3], [5, PADDING_ROW]]
    assert [batch.length for batch in batches] == [20, 9, 4, 4]
    assert rows(plan.epoch(1)) == rows(batches)


def test_drop_last_leaves_out_other_examples_each_epoch():
    plan = BatchPlan(lengths(), BUCKETS, 8, seed=3, drop_last=True)
    left_out = []
    for epoch in range(20):
        batches = plan.epoch(epoch)
        assert len(batches) == plan.steps_per_epoch == 6
        assert len(set(real(batches))) == 48
        left_out.append(set(range(53)) - set(real(batches)))
    assert len(set().union(*left_out)) > 30


def test_drop_last_leaves_out_every_example_equally_often():
    examples = np.asarray([3] * 2 + [8] * 6 + [20] * 3)  # 3 of 11 are left out
    plan = BatchPlan(examples, BUCKETS, 4, seed=3, drop_last=True)
    times = np.zeros(11)
    for epoch in range(600):
        times[np.setdiff1d(np.arange(11), real(plan.epoch(epoch)))] += 1
    expected = 600 * 3 / 11
    deviation = np.sqrt(expected * (1 - 3 / 11))
    assert (abs(times - expected) < 4 * deviation).all()


@pytest.mark.parametrize("process_count", [1, 2, 4, 8])
def test_process_shares_are_contiguous_parts_of_the_global_batch(process_count):
    batch = PlannedBatch(4, np.arange(8))
    shares = [batch.share(index, process_count) for index in range(process_count)]
    assert {len(share) for share in shares} == {8 // process_count}
    np.testing.assert_array_equal(np.concatenate(shares), np.arange(8))


def test_the_order_is_not_the_generator_of_the_first_examples_labels():
    order = real(BatchPlan(np.full(50, 3), (4,), 8, seed=1).epoch(2))
    assert order != np.random.default_rng([1, 2, 0]).permutation(50).tolist()


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ConfigError, "ascending", ([3], (5, 5), 2)),
        (ConfigError, "ascending", ([3], (), 2)),
        (ConfigError, "longest video has 21 clips, the last bucket holds 20", ([21], BUCKETS, 2)),
        (ConfigError, "batch_size=0", ([3], BUCKETS, 0)),
        (DataError, "no examples", ([], BUCKETS, 2)),
        (DataError, "row 1 of the split has no clips", ([3, 0], BUCKETS, 2)),
    ],
)
def test_what_cannot_be_planned_is_refused(error, message, arguments):
    with pytest.raises(error, match=message):
        BatchPlan(*arguments)


def test_drop_last_with_fewer_examples_than_a_batch_is_refused():
    with pytest.raises(ConfigError, match="drop_last leaves nothing of 3 examples"):
        BatchPlan([3, 3, 3], BUCKETS, 4, drop_last=True)


def test_default_buckets_of_a_worked_example():
    # one bucket: 4 * 10 clips. Two: {1, 1, 2} and {10} need 3 * 2 + 10; {1, 1}, {2, 10} 2 + 20.
    assert default_buckets([1, 10, 1, 2], 1) == (10,)
    assert default_buckets([1, 10, 1, 2], 2) == (2, 10)
    assert default_buckets([1, 10, 1, 2], 6) == (1, 2, 10)  # no more than needed
    assert padding_fraction([1, 10, 1, 2], (2, 10)) == pytest.approx(2 / 16)
    assert padding_fraction([1, 10, 1, 2], (1, 2, 10)) == 0.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_buckets", [1, 2, 3, 4])
def test_default_buckets_pad_as_little_as_the_best_of_all_choices(seed, max_buckets):
    examples = np.random.default_rng(seed).integers(1, 12, 15)
    best = min(padding_fraction(examples, edges) for edges in choices(examples, max_buckets))
    buckets = default_buckets(examples, max_buckets)
    assert len(buckets) <= max_buckets
    assert buckets[-1] == examples.max()
    assert padding_fraction(examples, buckets) == pytest.approx(best)


def choices(examples, max_buckets):
    *values, longest = np.unique(examples).tolist()
    for num_edges in range(max_buckets):
        for edges in itertools.combinations(values, num_edges):
            yield (*edges, longest)


def computed_clips(plan):
    return sum(batch.length * len(batch.examples) for batch in plan.epoch(0))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_buckets", [1, 2, 4])
@pytest.mark.parametrize("groups", [1, 3])
def test_default_buckets_compute_as_little_in_batches_as_the_best_choice(seed, max_buckets, groups):
    rng = np.random.default_rng(seed)
    examples, names = rng.integers(1, 12, 25), rng.choice(list("abc")[:groups], 25)

    def cost(buckets):
        return sum(
            computed_clips(BatchPlan(examples[names == name], buckets, 4))
            for name in np.unique(names)
        )

    best = min(map(cost, choices(examples, max_buckets)))
    buckets = default_buckets(
        examples, max_buckets, batch_size=4, groups=names if groups > 1 else None
    )
    assert len(buckets) <= max_buckets
    assert cost(buckets) == best


def test_buckets_that_no_batch_would_use_are_not_chosen():
    # Two batches of 2, {1, 2} and {9, 10}: with all in one batch of 4 shorter ones gain nothing.
    assert default_buckets([1, 2, 9, 10], batch_size=2) == (2, 10)
    assert default_buckets([1, 2, 9, 10], batch_size=4) == (10,)
    assert default_buckets([1, 2, 9, 10], batch_size=4, groups=list("aabb")) == (2, 10)


def test_what_buckets_cannot_be_chosen_for_is_refused():
    with pytest.raises(ConfigError, match="batch_size=0"):
        default_buckets([3], batch_size=0)
    with pytest.raises(DataError, match="no examples"):
        default_buckets([])


def test_plan_padding_counts_all_rows_of_whole_epochs():
    # Batches of 2: {20, 9} at 20, {4} and a padding row at 4: 33 of 48 clips.
    assert plan_padding(BatchPlan([4, 9, 20], BUCKETS, 2)) == pytest.approx(1 - 33 / 48)
    # One of the three is dropped: {20, 9}, {20, 4}, {9, 4} at 20, 20 and 9.
    plan = BatchPlan([4, 9, 20], BUCKETS, 2, drop_last=True)
    kept = [sum(plan.lengths[batch.examples].sum() for batch in plan.epoch(e)) for e in range(6)]
    computed = [2 * batch.length for e in range(6) for batch in plan.epoch(e)]
    assert plan_padding(plan, epochs=6) == pytest.approx(1 - sum(kept) / sum(computed))


def test_padding_fraction_refuses_buckets_that_are_too_short():
    with pytest.raises(ConfigError, match=r"buckets \(2, 9\) do not hold 10 clips"):
        padding_fraction([1, 10], (2, 9))


def real_lengths(path, clip_length):
    """Clips and domains of the rows of a real annotation file, as in its released features."""
    rows = read_json_lines(Path(os.environ["FLASHVTG_ANNOTATIONS"]) / path)
    num_clips = [
        len(row["label"]) if "label" in row else math.ceil(row["duration"] / clip_length - 1e-3)
        for row in rows
    ]
    return np.maximum(num_clips, 1), np.asarray([row.get("domain", "") for row in rows])


@pytest.mark.skipif("FLASHVTG_ANNOTATIONS" not in os.environ, reason="needs the real files")
@pytest.mark.parametrize(
    ("path", "clip_length", "batch_size", "most"),
    [
        ("qvhighlights/highlight_train_release.jsonl", 2, 64, 0.01),
        ("charades_sta/charades_sta_train_tvr_format.jsonl", 1, 128, 0.12),
        ("charades_sta/charades_sta_train_tvr_format.jsonl", 1, 32, 0.12),
        ("charades_sta/charades_sta_train_tvr_format.jsonl", 0.166666, 16, 0.12),
        ("tacos/train.jsonl", 2, 32, 0.15),
        # Four videos a domain are one batch: with as many lengths as one likes it would be 0.321.
        ("tvsum/tvsum_train.jsonl", 2, 4, 0.336),
        # Some twenty to sixty videos a domain; with as many lengths as one likes it would be 0.231.
        ("youtube_highlights/youtube_train.jsonl", 1, 4, 0.401),
    ],
)
def test_padding_at_the_real_durations(path, clip_length, batch_size, most):
    clips, domains = real_lengths(path, clip_length)
    buckets = default_buckets(clips, batch_size=batch_size, groups=domains)
    assert len(buckets) <= 6
    plans = [BatchPlan(clips[domains == name], buckets, batch_size) for name in np.unique(domains)]
    assert 1 - clips.sum() / sum(map(computed_clips, plans)) < most
