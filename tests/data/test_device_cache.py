"""Batches gathered on the device equal those that the host puts together."""

import copy
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from flashvtg_jax.data import device_cache
from flashvtg_jax.data.device_cache import (
    DeviceCache,
    cached_bytes,
    evaluation_draws,
    is_worth_caching,
)
from flashvtg_jax.data.pipeline import evaluation_batches, train_pipeline, train_plan
from flashvtg_jax.errors import ConfigError, DataError
from tests.data.memory_source import WIDTHS, MemorySource, small_config, small_source


def assert_close_batches(actual, expected):
    """Equal to rounding; masks and numbers exactly, and padding is exactly 0."""

    def compare(one, other):
        one = np.asarray(one)
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(one == 0, other == 0)

    jax.tree.map(compare, actual, expected)


def repeated_videos():
    """A source in which three queries ask about each video, one of a label fewer than clips."""
    source = MemorySource(np.repeat([3, 12, 7, 1], 3))
    for i, example in enumerate(source.examples):
        first = source.examples[i // 3 * 3]
        example.annotation["vid"] = first.annotation["vid"]
        example.streams = first.streams
    source.num_clips[4] -= 1
    return source


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data.max_clips": 4, "data.buckets": (4,)},
        {"data.normalize_query": False, "data.max_words": 3},
        {"data.video_streams": ("clip",)},
        {"train.drop_last": True},
    ],
    ids=lambda changes: next(iter(changes), "plain"),
)
@pytest.mark.parametrize("make_source", [small_source, repeated_videos])
def test_training_batches_equal_those_of_the_pipeline(make_source, changes):
    source, config = make_source(), small_config(**changes)
    cache = DeviceCache(source, config, jax.device_put)
    plan = train_plan(source, config)
    for step, expected in enumerate(train_pipeline(source, config)):
        epoch, planned = plan.batch(step)
        draw = cache.draw(source, planned.examples, config.seed, epoch)
        batch = jax.jit(cache.taking(planned.length))(cache.split, draw)
        assert_close_batches(batch, expected)


def test_evaluation_batches_equal_those_of_the_pipeline():
    source, config = small_source(), small_config()
    cache = DeviceCache(source, config, jax.device_put)
    draws = evaluation_draws([source], config, cache)
    for (clips, (draw,)), batch in zip(draws, evaluation_batches(source, config), strict=True):
        taken = cache.taking(clips)(cache.split, draw)
        assert_close_batches(taken.replace(targets=None), batch.replace(targets=None))


def test_a_source_with_fewer_batches_ends_with_padding_rows():
    config = small_config()
    long, short = small_source(21), small_source(5)
    cache = DeviceCache(long, config, jax.device_put)
    short = copy.copy(short)
    short.rows = np.arange(5)
    numbers = [
        [d.example.tolist() for d in draws]
        for _, draws in evaluation_draws([long, short], config, cache)
    ]
    assert len(numbers) == 3
    assert [row[1] for row in numbers[1:]] == [[-1] * 8] * 2
    assert sorted(i for row in numbers for i in row[0] if i >= 0) == list(range(21))


def test_processes_share_the_rows_of_a_batch():
    source, config = small_source(), small_config()
    cache = DeviceCache(source, config, jax.device_put)
    whole = list(evaluation_draws([source], config, cache))
    parts = [list(evaluation_draws([source], config, cache, index, 2)) for index in range(2)]
    for (clips, (draw,)), *shares in zip(whole, *parts, strict=True):
        assert {share[0] for share in shares} == {clips}
        together = np.concatenate([share[1][0].row for share in shares])
        np.testing.assert_array_equal(together, draw.row)


def test_features_stay_in_the_precision_they_are_stored_in():
    source, config = repeated_videos(), small_config()
    cache = DeviceCache(source, config, jax.device_put)
    assert [stream.dtype for stream in cache.split.streams] == [np.float16] * 2
    assert [stream.shape for stream in cache.split.streams] == [(23, w) for w in WIDTHS.values()]
    features = (*cache.split.streams, cache.split.words)
    assert cached_bytes(source, config) == sum(array.nbytes for array in features)


def test_a_row_that_cannot_be_read_is_told_before_training():
    source = small_source()

    def broken(index):
        raise DataError("row 3 cannot be read")

    source.query = broken
    with pytest.raises(DataError, match="row 3"):
        DeviceCache(source, small_config(), jax.device_put)


@pytest.mark.parametrize(
    ("wanted", "free", "platform", "expected"),
    [
        (False, 2**40, "gpu", False),
        (None, 2**40, "gpu", True),
        (None, None, "gpu", False),  # who knows
        (None, 4, "gpu", True),  # times what is needed: the share that it may take
        (None, 3.9, "gpu", False),
        (None, 7.9, "cpu", False),  # there it is put together in the same memory
        (None, 8, "cpu", True),
        (True, 1, "gpu", True),
        (True, None, "gpu", True),
    ],
)
def test_what_fits_in_a_quarter_of_the_memory_is_kept(
    monkeypatch, wanted, free, platform, expected
):
    source, config = small_source(), small_config(**{"data.cache_on_device": wanted})
    if free is not None:
        free *= cached_bytes(source, config)
    monkeypatch.setattr(device_cache, "free_memory", lambda device: free)
    device = SimpleNamespace(platform=platform, device_kind="H200")
    assert is_worth_caching(source, config, device) is expected


def test_what_must_be_kept_and_does_not_fit_is_refused(monkeypatch):
    source, config = small_source(), small_config(**{"data.cache_on_device": True})
    monkeypatch.setattr(device_cache, "free_memory", lambda device: 100)
    with pytest.raises(ConfigError, match=r"memory/train takes 0\.0 GiB.*are free on H200"):
        is_worth_caching(source, config, SimpleNamespace(platform="gpu", device_kind="H200"))
