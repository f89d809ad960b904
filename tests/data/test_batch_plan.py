import itertools

import numpy as np
import pytest

from flashvtg_jax.data.batch_plan import (
    PADDING_ROW,
    BatchPlan,
    PlannedBatch,
    default_buckets,
    padding_fraction,
)
from flashvtg_jax.errors import ConfigError, DataError

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


def test_only_the_last_batch_is_padded_and_its_padding_is_at_the_end():
    *full, last = BatchPlan(lengths(), BUCKETS, 8, seed=3).epoch(0)
    assert all((batch.examples >= 0).all() for batch in full)
    assert (last.examples[:5] >= 0).all()  # 53 = 6 * 8 + 5
    assert last.examples[5:].tolist() == [PADDING_ROW] * 3


def test_full_batches_hold_one_bucket_only():
    plan = BatchPlan(lengths(400), BUCKETS, 8, seed=3)
    # At most 3 * 7 examples are left in the buckets in the end: 3 mixed batches.
    for batch in plan.epoch(0)[: 50 - 3]:
        shorter = max((edge for edge in BUCKETS if edge < batch.length), default=0)
        assert plan.lengths[batch.examples].min() > shorter


def test_batches_stand_in_the_order_in_which_they_fill():
    one_bucket = BatchPlan([9] * 80, BUCKETS, 8, seed=3)
    place = {row: i for i, row in enumerate(real(one_bucket.epoch(0)))}  # the shuffled order
    batches = BatchPlan([2, 7] * 40, BUCKETS, 8, seed=3).epoch(0)
    filled_at = [max(place[row] for row in batch.examples) for batch in batches]
    assert filled_at == sorted(filled_at)
    lengths = [batch.length for batch in batches]
    assert lengths not in (sorted(lengths), sorted(lengths, reverse=True))  # buckets alternate


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
    values = np.unique(examples).tolist()
    best = min(
        padding_fraction(examples, (*edges, values[-1]))
        for num_edges in range(max_buckets)
        for edges in itertools.combinations(values[:-1], num_edges)
    )
    buckets = default_buckets(examples, max_buckets)
    assert len(buckets) <= max_buckets
    assert buckets[-1] == values[-1]
    assert padding_fraction(examples, buckets) == pytest.approx(best)


def test_padding_fraction_refuses_buckets_that_are_too_short():
    with pytest.raises(ConfigError, match=r"buckets \(2, 9\) do not hold 10 clips"):
        padding_fraction([1, 10], (2, 9))
