"""Batches from the host and from the device, one step a dispatch and several: the same training."""

import json

import numpy as np
import pytest

from flashvtg_jax.errors import ConfigError
from flashvtg_jax.experiments.train import train
from flashvtg_jax.training import feeding
from flashvtg_jax.training.feeding import _InFlight


def rows(workdir, name="train"):
    return [json.loads(line) for line in (workdir / f"{name}.jsonl").read_text().splitlines()]


def assert_same_training(workdir, other):
    ours, theirs = rows(workdir), rows(other)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose([*one.values()], [*two.values()], rtol=2e-5, atol=1e-6)


@pytest.mark.slow
def test_data_on_the_device_and_several_steps_a_dispatch_change_nothing(
    finished, tiny_config, tmp_path
):
    workdir, *_ = finished  # with data on the device, a step a dispatch
    train(tiny_config(data__cache_on_device=False), tmp_path / "streamed", show_progress=False)
    assert_same_training(tmp_path / "streamed", workdir)
    # Two steps a dispatch do not divide the three of an epoch.
    several = tiny_config(data__cache_on_device=True, train__steps_per_dispatch=2)
    train(several, tmp_path / "several", show_progress=False)
    assert_same_training(tmp_path / "several", workdir)
    for name in ("streamed", "several"):
        evaluations = zip(
            rows(tmp_path / name, "evaluations"), rows(workdir, "evaluations"), strict=True
        )
        assert all(one["step"] == other["step"] for one, other in evaluations)


def test_under_pmap_data_cannot_be_kept_on_the_device(tiny_config, tmp_path):
    for field in ("data__cache_on_device", "train__steps_per_dispatch"):
        config = tiny_config(parallel__mode="pmap", **{field: True if "cache" in field else 2})
        with pytest.raises(ConfigError, match=r"needs config\.parallel\.mode='jit'"):
            train(config, tmp_path, show_progress=False)


class Result:
    """An array on a device that finishes at a time of a clock."""

    def __init__(self, clock, finishes):
        self._clock, self._finishes = clock, finishes

    def is_ready(self):
        return self._clock[0] >= self._finishes

    def block_until_ready(self):
        self._clock[0] = max(self._clock[0], self._finishes)
        return self


def test_only_dispatches_that_are_waited_for_tell_how_long_steps_take(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(feeding.time, "perf_counter", lambda: clock[0])
    started = _InFlight()
    told = []
    # Steps of 2 s, one after the other; before the fifth an evaluation takes 100 s.
    for finishes, count in ((2, 1), (4, 1), (8, 2), (12, 2), (116, 2), (120, 2), (124, 2)):
        if finishes == 116:
            clock[0] = 112.0
        told.append(started.wait())
        started.add(Result(clock, finishes), count)
    assert told == [None, None, None, 2.0, 2.0, 2.0, 2.0]
    assert started.wait() == 2.0
