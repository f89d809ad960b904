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
from flashvtg_jax.data.labels import Clips, qvhighlights_labels
from flashvtg_jax.data.pipeline import evaluation_batches, train_pipeline, train_plan
from flashvtg_jax.errors import ConfigError, DataError
from tests.data.memory_source import WIDTHS, MemorySource, small_config, small_source

H200 = SimpleNamespace(platform="gpu", device_kind="H200")


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


@pytest.mark.slow
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
    draws = evaluation_draws(source, config, cache)
    for (clips, draw), batch in zip(draws, evaluation_batches(source, config), strict=True):
        taken = cache.taking(clips)(cache.split, draw)
        assert_close_batches(taken.replace(targets=None), batch.replace(targets=None))


def test_processes_share_the_rows_of_a_batch():
    source, config = small_source(), small_config()
    cache = DeviceCache(source, config, jax.device_put)
    whole = list(evaluation_draws(source, config, cache))
    parts = [list(evaluation_draws(source, config, cache, index, 2)) for index in range(2)]
    for (clips, draw), *shares in zip(whole, *parts, strict=True):
        assert {share[0] for share in shares} == {clips}
        together = np.concatenate([share[1].row for share in shares])
        np.testing.assert_array_equal(together, draw.row)


def test_features_stay_in_the_precision_they_are_stored_in():
    source, config = repeated_videos(), small_config()
    cache = DeviceCache(source, config, jax.device_put)
    assert [stream.dtype for stream in cache.split.streams] == [np.float16] * 2
    assert [stream.shape for stream in cache.split.streams] == [(23, w) for w in WIDTHS.values()]
    features = (*cache.split.streams, cache.split.words, cache.split.saliency_labels)
    assert cached_bytes(source, config) == sum(array.nbytes for array in features)


def test_a_row_that_cannot_be_read_is_told_before_training():
    source = small_source()

    def broken(index):
        raise DataError("row 3 cannot be read")

    source.query = broken
    with pytest.raises(DataError, match="row 3"):
        DeviceCache(source, small_config(), jax.device_put)


def test_rows_are_those_of_the_whole_split_whatever_part_is_trained_on():
    whole, config = small_source(), small_config()
    part = copy.copy(whole)
    part.rows = np.array([5, 2, 9])
    cache = DeviceCache(whole, config, jax.device_put)
    draw = cache.draw(part, np.array([2, 0, -1]), seed=3, epoch=1)
    batch = cache.taking(12)(cache.split, draw)
    assert draw.row.tolist() == [9, 5, -1]
    assert batch.example.tolist() == [2, 0, -1]
    assert batch.video_mask.sum(1).tolist() == [*whole.num_clips[[9, 5]], 0]
    # Clips are drawn for the example of the part, as the pipeline does it.
    _, choose = qvhighlights_labels(whole.examples[9].annotation, Clips(whole.num_clips[9]))
    positives, _ = choose(np.random.default_rng([3, 1, 2]))
    np.testing.assert_array_equal(batch.targets.positive_clips[0], positives)


def test_a_split_without_labels_is_kept_as_well():
    source, config = small_source(with_targets=False), small_config()
    cache = DeviceCache(source, config, jax.device_put)
    draws = evaluation_draws(source, config, cache)
    for (clips, draw), batch in zip(draws, evaluation_batches(source, config), strict=True):
        assert_close_batches(cache.taking(clips)(cache.split, draw), batch)


@pytest.mark.parametrize(
    ("wanted", "device", "host", "expected"),
    [  # times what is needed
        (False, 100, 100, False),
        (None, 100, 100, True),
        (None, None, 100, False),  # who knows
        (None, 4, 4, True),  # the share that it may take
        (None, 3.9, 100, False),
        (None, 100, 3.9, False),  # where it is put together
        (True, 1, 1, True),
        (True, None, None, True),
    ],
)
def test_what_fits_in_a_quarter_of_the_memory_is_kept(monkeypatch, wanted, device, host, expected):
    source, config = small_source(), small_config(**{"data.cache_on_device": wanted})
    needed = cached_bytes(source, config)
    for name, free in (("free_memory", device), ("free_host_memory", host)):
        monkeypatch.setattr(
            device_cache, name, lambda *_, f=free: None if f is None else f * needed
        )
    assert is_worth_caching(source, config, [H200, H200]) is expected


@pytest.mark.parametrize(("times", "expected"), [(11.9, False), (12, True)])
def test_cpu_devices_are_counted_each(monkeypatch, times, expected):
    source, config = small_source(), small_config()
    free = times * cached_bytes(source, config)
    monkeypatch.setattr(device_cache, "free_memory", lambda device: free)
    monkeypatch.setattr(device_cache, "free_host_memory", lambda: free)
    cpu = SimpleNamespace(platform="cpu", device_kind="cpu")
    assert is_worth_caching(source, config, [cpu, cpu]) is expected  # (1 + 2) of a quarter


@pytest.mark.parametrize("place", ["free_memory", "free_host_memory"])
def test_what_must_be_kept_and_does_not_fit_is_refused(monkeypatch, place):
    source, config = small_source(), small_config(**{"data.cache_on_device": True})
    for name in ("free_memory", "free_host_memory"):
        monkeypatch.setattr(device_cache, name, lambda *_, n=name: 100 if n == place else 2**40)
    with pytest.raises(ConfigError, match=r"memory/train takes 0\.0 GiB on (H200|the host), 0\.0"):
        is_worth_caching(source, config, [H200])


def test_more_clips_than_can_be_numbered_are_not_kept(monkeypatch):
    source, config = small_source(), small_config()
    monkeypatch.setattr(device_cache, "free_memory", lambda device: 2**50)
    monkeypatch.setattr(device_cache, "_MOST_ROWS", int(source.num_clips.sum()) + 1)
    assert is_worth_caching(source, config, [H200])
    monkeypatch.setattr(device_cache, "_MOST_ROWS", int(source.num_clips.sum()))
    assert not is_worth_caching(source, config, [H200])
