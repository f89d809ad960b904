"""Steps whose loss is not finite."""

import json
from functools import partial

import numpy as np
import pytest

from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.data.pipeline import train_pipeline
from flashvtg_jax.data.source import open_split
from flashvtg_jax.errors import FlashVTGError
from flashvtg_jax.experiments.train import train
from flashvtg_jax.training import trainer

pytestmark = pytest.mark.slow


@pytest.fixture
def break_steps(monkeypatch):
    """Makes the features of the batches of some steps infinite, after they were checked."""

    def install(*steps):
        open_pipeline = trainer.train_pipeline

        class Broken:
            def __init__(self, batches, step):
                self._batches, self._step, self.close = batches, step, batches.close

            def __iter__(self):
                return self

            def __next__(self):
                batch = next(self._batches)
                self._step += 1
                return batch.replace(video=batch.video + np.inf) if self._step in steps else batch

        def open_broken(*arguments, start_step, **fields):
            batches = open_pipeline(*arguments, start_step=start_step, **fields)
            return Broken(batches, start_step)

        monkeypatch.setattr(trainer, "train_pipeline", open_broken)

    return install


@pytest.fixture
def tiny_config(tiny_config):
    """The tiny configuration, its batches sent by the host, where `break_steps` reaches them."""
    return partial(tiny_config, data__cache_on_device=False)


def rows(workdir):
    return [json.loads(line) for line in (workdir / "train.jsonl").read_text().splitlines()]


def test_training_stops_and_says_where_and_why_and_saves_the_batch(
    tiny_config, tiny_data, tmp_path, break_steps
):
    break_steps(5)
    config = tiny_config()
    with pytest.raises(FlashVTGError, match=r"step 5: .*loss.*not finite \(.*loss nan") as error:
        train(config, tmp_path, show_progress=False)
    path = tmp_path / "nonfinite" / "step5.npz"
    assert str(path) in str(error.value)
    source = open_split(tiny_data, config.data.dataset, "train")
    batches = train_pipeline(source, config, start_step=4)
    expected = next(batches)
    batches.close()
    with np.load(path) as saved:
        np.testing.assert_array_equal(saved["video"], expected.video)
        np.testing.assert_array_equal(saved["positive_clips"], expected.targets.positive_clips)
        qids = [str(source.annotations()[i]["qid"]) if i >= 0 else "" for i in expected.example]
        assert saved["qid"].tolist() == qids
    # The checkpoint before is intact, and a run that finds nothing wrong goes on from it.
    assert Checkpoints(tmp_path, read_only=True).latest_step() == 3
    assert [row["step"] for row in rows(tmp_path)][-1] >= 5


def test_a_state_that_is_not_finite_is_never_saved(tiny_config, tmp_path, break_steps):
    break_steps(3)  # the last step of an epoch that is shorter than a logging interval
    with pytest.raises(FlashVTGError, match="step 3: "):
        train(tiny_config(train__log_every_steps=100), tmp_path, show_progress=False)
    assert Checkpoints(tmp_path, read_only=True).latest_step() is None


def test_skipped_steps_change_nothing_and_are_counted(finished, tiny_config, tmp_path, break_steps):
    break_steps(4, 5)
    train(tiny_config(train__on_nan="skip"), tmp_path, show_progress=False)
    found = {row["step"]: row for row in rows(tmp_path)}
    assert [step for step, row in found.items() if row["skipped"]] == [4, 5]
    assert found[4]["loss"] is None
    assert all(np.isfinite(found[step]["loss"]) for step in (6, 7, 12))
    assert (tmp_path / "nonfinite" / "step4.npz").exists()
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert checkpoints.read_meta(12)["skipped_steps"] == 2
    # Up to the first of them the run is that of a run which stops; the count goes on in the next.
    undisturbed = {row["step"]: row["loss"] for row in rows(finished[0])}
    # To rounding: a step that can be skipped is another program.
    np.testing.assert_allclose(
        [found[s]["loss"] for s in (1, 2, 3)], [undisturbed[s] for s in (1, 2, 3)], rtol=1e-6
    )
    train(tiny_config(train__on_nan="skip", train__epochs=5), tmp_path, show_progress=False)
    assert Checkpoints(tmp_path, read_only=True).read_meta(15)["skipped_steps"] == 2


def test_skipping_for_ever_is_given_up(tiny_config, tmp_path, break_steps):
    break_steps(*range(5, 100))
    config = tiny_config(train__on_nan="skip", train__epochs=20)
    with pytest.raises(FlashVTGError, match="stopped after 20 such steps in a row"):
        train(config, tmp_path, show_progress=False)
    assert Checkpoints(tmp_path, read_only=True).latest_step() == 21


def test_of_several_steps_in_a_row_the_first_that_is_not_finite_is_named(tiny_config, tmp_path):
    config = tiny_config(
        data__cache_on_device=True,
        train__steps_per_dispatch=3,
        optimizer__learning_rate=1e30,
        optimizer__gradient_clip_norm=1e30,
    )
    with pytest.raises(FlashVTGError, match="step 2: "):
        train(config, tmp_path, show_progress=False)
