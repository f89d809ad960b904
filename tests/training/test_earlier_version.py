"""A run that an earlier version left: it is evaluated and resumed.

`run_0.1.zip` is what version 0.1.0 left of the tiny configuration after two epochs; its
configuration has fields that no longer exist.
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from flashvtg_jax.checkpoints.restore import load_params
from flashvtg_jax.experiments.train import train


@pytest.fixture
def earlier_run(tmp_path):
    shutil.unpack_archive(Path(__file__).with_name("run_0.1.zip"), tmp_path)
    return tmp_path


def losses(workdir):
    lines = (workdir / "train.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


def test_its_parameters_load(earlier_run):
    params = load_params(earlier_run)
    total = sum(
        np.abs(leaf).sum(dtype=np.float64) for leaf in map(np.asarray, jax.tree.leaves(params))
    )
    assert total == pytest.approx(379.729673, rel=1e-6)


@pytest.mark.slow
def test_it_is_resumed_and_ends_as_a_run_of_this_version(finished, tiny_config, earlier_run):
    assert sorted(losses(earlier_run)) == list(range(1, 7))
    train(tiny_config(train__keep_checkpoints=1), earlier_run, show_progress=False)
    resumed, whole = losses(earlier_run), losses(finished[0])
    assert sorted(resumed) == sorted(whole) == list(range(1, 13))
    # Of another processor, perhaps.
    np.testing.assert_allclose([*resumed.values()], [*whole.values()], rtol=1e-3)
