"""Hooks of a user, and what the trainer promises them; steps without hidden transfers."""

import contextlib
from pathlib import Path

import jax
import numpy as np
import pytest

from flashvtg_jax.config import apply_overrides
from flashvtg_jax.experiments.opening import open_run
from flashvtg_jax.experiments.runs import plan_runs
from flashvtg_jax.experiments.train import train
from flashvtg_jax.training.feeding import SplitCaches
from flashvtg_jax.training.hooks.hook import Hook
from flashvtg_jax.training.trainer import Trainer


class Recorder(Hook):
    """Writes down what it is called with."""

    def __init__(self, stop_at=None):
        self.calls = []
        self.steps, self.losses, self.evaluations = [], [], {}
        self._stop_at = stop_at

    def on_start(self, training):
        self.calls.append("start")

    def before_step(self, training):
        assert int(training.state.step) == training.step
        if training.step == self._stop_at:
            training.stopped = True

    def on_metrics(self, training, steps, metrics):
        assert all(isinstance(array, np.ndarray) for array in metrics.values())
        self.steps += steps
        self.losses += metrics["loss"].tolist()

    def on_evaluation(self, training, metrics, metrics_nms):
        self.evaluations[training.step] = (metrics, metrics_nms)

    def on_end(self, training):
        assert (training.run.workdir / "metrics.json").exists()
        self.calls.append("end")

    def close(self):
        self.calls.append("close")


@pytest.mark.slow
def test_a_hook_sees_every_step_and_evaluation_and_changes_nothing(finished, tiny_config, tmp_path):
    recorder = Recorder()
    result = train(tiny_config(), tmp_path, show_progress=False, hooks=[recorder])
    assert result == finished[1]
    assert recorder.steps == list(range(1, 13))
    assert recorder.calls == ["start", "end", "close"]
    assert sorted(recorder.evaluations) == [0, 6, 12]
    assert recorder.evaluations[0][0]["MR-full-mAP"] >= 0
    for name in ("train.jsonl", "evaluations.jsonl"):
        assert (tmp_path / name).read_text() == (finished[0] / name).read_text()


@pytest.mark.slow
def test_a_hook_can_end_training_and_the_run_resumes_without_it(finished, tiny_config, tmp_path):
    recorder = Recorder(stop_at=4)
    train(tiny_config(), tmp_path, show_progress=False, hooks=[recorder])
    assert recorder.steps == [1, 2, 3, 4]
    assert sorted(recorder.evaluations) == [0, 4]  # where it ended
    train(tiny_config(), tmp_path, show_progress=False)
    assert (tmp_path / "train.jsonl").read_text() == (finished[0] / "train.jsonl").read_text()


@pytest.mark.slow
def test_a_stop_between_evaluations_is_evaluated_and_an_early_stop_is_kept(tiny_config, tmp_path):
    class StopAtLoss(Hook):
        def on_metrics(self, training, steps, metrics):
            training.stopped = steps[-1] >= 3

    config = tiny_config(train__evaluate_every_epochs=3, train__log_every_steps=100)
    recorder = Recorder()
    train(config, tmp_path / "a", show_progress=False, hooks=[StopAtLoss(), recorder])
    assert sorted(recorder.evaluations) == [0, 3]  # the end of an epoch that is saved

    patient = tiny_config(
        train__evaluate_every_epochs=1,
        train__early_stopping_evaluations=1,
        optimizer__learning_rate=0.0,
    )
    result = train(patient, tmp_path / "b", show_progress=False)
    recorder = Recorder()
    assert train(patient, tmp_path / "b", show_progress=False, hooks=[recorder]) == result
    assert recorder.steps == [] and recorder.evaluations == {}


@pytest.mark.slow
def test_a_hook_serves_the_runs_of_all_seeds_and_cannot_change_metrics(tiny_config, tmp_path):
    class Rounding(Hook):
        def on_evaluation(self, training, metrics, metrics_nms):
            with pytest.raises(TypeError):
                metrics["MR-full-mAP"] = 100.0

    recorder = Recorder()
    config = tiny_config(seeds=(2024, 5), train__epochs=1)
    with config.unlocked():
        del config.synthetic
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "qvhighlights").symlink_to(Path(config.data.data_dir) / "qvhighlights")
    config = apply_overrides(config, {"data.data_dir": str(tmp_path / "data")})
    train(config, tmp_path / "runs", show_progress=False, hooks=[Rounding(), recorder])
    assert recorder.calls == ["start", "end", "close"] * 2
    assert recorder.steps == [1, 2, 3] * 2


@pytest.mark.slow
def test_hooks_are_closed_when_one_of_them_fails(tiny_config, tmp_path):
    class Failing(Hook):
        def on_metrics(self, training, steps, metrics):
            raise RuntimeError("no space in my database")

    recorder = Recorder()
    with pytest.raises(RuntimeError, match="my database"):
        train(tiny_config(), tmp_path, show_progress=False, hooks=[Failing(), recorder])
    assert recorder.calls == ["start", "close"]


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_steps_move_nothing_between_host_and_devices_unasked(
    tiny_config, tiny_data, tmp_path, cached
):
    config = tiny_config(data__cache_on_device=cached)
    (run,) = [open_run(run, tiny_data, {}) for run in plan_runs(config, tmp_path)]
    trainer = Trainer(run.config, run.plan.steps_per_epoch)
    state = trainer.init(np.uint32(run.config.seed))
    caches = SplitCaches(show_progress=False)
    feed = trainer.open_feed(run, caches.get(run.train_source, run.config, trainer.mesh))
    with contextlib.closing(feed), jax.transfer_guard("disallow"):
        for step in range(3):
            state, metrics, _ = feed.advance(state, step, 1)
        assert np.isfinite(jax.device_get(metrics["loss"])[0])


@pytest.mark.slow
def test_a_profile_of_some_steps_is_written(tiny_config, tmp_path, capsys):
    config = tiny_config(train__epochs=6, train__evaluate_every_epochs=6)
    train(config, tmp_path, show_progress=False, profile=True)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert "profile of steps 4 to 13" in capsys.readouterr().err
