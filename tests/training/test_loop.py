"""The whole loop on a shrunken configuration: training, resuming, evaluating."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.config import config_to_json
from flashvtg_jax.distributed.stop_signal import Interrupted, StopSignal
from flashvtg_jax.errors import CheckpointError, ConfigError, DataError
from flashvtg_jax.evaluation.results import Results
from flashvtg_jax.experiments import train as train_module
from flashvtg_jax.experiments.evaluate import evaluate
from flashvtg_jax.experiments.train import train
from flashvtg_jax.metrics import score_files
from flashvtg_jax.training.selection import Selection
from flashvtg_jax.training.trainer import Trainer

STEPS = 12  # four epochs of three steps


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(workdir: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_lines(workdir / "train.jsonl")}


def run(config, workdir):
    return train(config, workdir, show_progress=False)


def test_a_run_leaves_logs_checkpoints_predictions_and_numbers(finished):
    workdir, (numbers, numbers_nms), _ = finished
    rows = read_lines(workdir / "train.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert {"loss", "classification", "saliency", "gradient_norm", "epoch"} <= rows[0].keys()
    assert [row["step"] for row in read_lines(workdir / "evaluations.jsonl")] == [0, 6, 12]
    assert list(workdir.glob("tensorboard/events*"))
    saved = json.loads((workdir / "metrics.json").read_text())
    assert saved.pop("split") == "val"
    assert saved.pop("step") in (6, 12)
    assert saved == {**numbers, "with_nms": numbers_nms}
    predictions = read_lines(workdir / "predictions.jsonl")
    assert len(predictions) == 6
    assert all(row["pred_relevant_windows"] for row in predictions)


def test_checkpoints_are_the_latest_and_the_best(finished):
    workdir, (numbers, _), _ = finished
    checkpoints = Checkpoints(workdir, read_only=True)
    assert checkpoints.latest_step() == STEPS
    scores = {row["step"]: row["MR-full-mAP"] for row in read_lines(workdir / "evaluations.jsonl")}
    del scores[0]  # untrained
    assert numbers["MR-full-mAP"] == max(scores.values()) == scores[checkpoints.best_step()]
    meta = checkpoints.read_meta(STEPS)
    assert meta["versions"]["jax"] == jax.__version__
    assert meta["config"]["config"]["name"] == "demo"


def test_evaluate_gives_the_numbers_that_training_ended_with(finished, tmp_path):
    workdir, results, _ = finished
    assert evaluate(workdir, output=tmp_path, show_progress=False) == results
    for name in ("predictions.jsonl", "predictions_nms.jsonl", "metrics.json"):
        assert (tmp_path / name).read_text() == (workdir / name).read_text()


def test_score_of_the_prediction_file_gives_the_same_numbers(finished, tiny_data):
    workdir, results, _ = finished
    annotations = tiny_data / "synthetic" / "highlight_val_release.jsonl"
    for name, numbers in zip(("predictions", "predictions_nms"), results, strict=True):
        assert score_files(workdir / f"{name}.jsonl", annotations) == numbers


@pytest.mark.slow
def test_a_finished_run_started_again_returns_its_numbers(finished):
    workdir, results, config = finished
    before = losses(workdir)
    assert run(config, workdir) == results
    assert losses(workdir) == before


@pytest.mark.slow
def test_a_run_of_fewer_epochs_continued_equals_an_undisturbed_one(finished, tiny_config, tmp_path):
    run(tiny_config(train__epochs=2), tmp_path)
    assert len(losses(tmp_path)) == 6
    results = run(tiny_config(), tmp_path)
    assert losses(tmp_path) == losses(finished[0])
    assert results == finished[1]


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_continues(finished, tiny_config, tmp_path):
    def interrupt_at_step(step):
        while not (tmp_path / "train.jsonl").exists() or len(losses(tmp_path)) < step:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt_at_step, args=(4,))
    thread.start()
    # Far more epochs than it takes to be interrupted, none evaluated; both are free to change.
    endless = tiny_config(train__epochs=10_000, train__evaluate_every_epochs=10_000)
    with pytest.raises(Interrupted, match="SIGTERM") as interruption:
        run(endless, tmp_path)
    thread.join()
    saved = Checkpoints(tmp_path, read_only=True).latest_step()
    assert saved == interruption.value.step == max(losses(tmp_path))
    run(tiny_config(train__epochs=1), tmp_path)  # done already: evaluated where it stands
    assert Checkpoints(tmp_path, read_only=True).best_step() == saved
    results = run(tiny_config(train__epochs=saved // 3 + 2), tmp_path)
    undisturbed = losses(finished[0])
    for step, loss in losses(tmp_path).items():
        assert loss == undisturbed.get(step, loss)
    assert results.metrics.keys() == finished[1].metrics.keys()


@pytest.mark.slow
def test_a_run_interrupted_again_and_again_ends_as_an_undisturbed_one(
    finished, tmp_path, monkeypatch
):
    class Impatient(StopSignal):
        """Stops at every so manieth question: between steps, or in the midst of an evaluation."""

        calls = 0

        def requested(self):
            self.calls += 1
            if self.calls == 7:
                self.signal = signal.SIGTERM
            return self.signal is not None

    monkeypatch.setattr(train_module, "StopSignal", Impatient)
    stops = []
    while len(stops) < 20:
        try:
            results = run(finished[2], tmp_path)
            break
        except Interrupted as interruption:
            stops.append(interruption.step)
    assert len(stops) > 2 and set(stops) & {0, 6, 12}  # in the midst of an evaluation as well
    assert results == finished[1]
    for name in ("train.jsonl", "evaluations.jsonl", "predictions.jsonl", "metrics.json"):
        assert (tmp_path / name).read_text() == (finished[0] / name).read_text()


@pytest.mark.slow
def test_a_killed_run_started_again_ends_as_an_undisturbed_one(finished, tmp_path):
    workdir, results, config = finished
    path = tmp_path / "config.json"
    path.write_text(config_to_json(config))
    program = (
        "import sys, time; from flashvtg_jax.config import read_config;"
        "from flashvtg_jax.experiments.train import train;"
        "from flashvtg_jax.training.hooks.metric_buffer import MetricBuffer;"
        # Slowed down after the second epoch, so that the kill comes in the middle of the third.
        "add = MetricBuffer.add;"
        "slow = lambda log, step, *m: (add(log, step, *m), step > 7 and time.sleep(60));"
        "MetricBuffer.add = slow;"
        "train(read_config(sys.argv[1]), sys.argv[2], show_progress=False)"
    )
    run_dir = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", program, path, run_dir])
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (run_dir / "train.jsonl").exists() and len(losses(run_dir)) >= 7:  # all but the last
            process.kill()
        time.sleep(0.02)
    assert process.wait() == -signal.SIGKILL
    assert max(losses(run_dir)) == 7
    assert run(config, run_dir) == results
    assert losses(run_dir) == losses(workdir)
    for name in ("predictions.jsonl", "metrics.json", "evaluations.jsonl"):
        assert (run_dir / name).read_text() == (workdir / name).read_text()


def test_a_work_directory_of_another_configuration_is_refused(finished, tiny_config):
    workdir = finished[0]
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate: 0\.002 there, 0\.1 now"):
        run(tiny_config(optimizer__learning_rate=0.1), workdir)


def test_best_parameters_alone_make_a_folder_a_run(finished, tiny_config, tmp_path):
    # A kill between the first best parameters and the first checkpoint leaves these alone.
    shutil.copytree(finished[0] / "best", tmp_path / "best")
    shutil.copy(finished[0] / "config.json", tmp_path)
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        run(tiny_config(optimizer__learning_rate=0.1), tmp_path)


def test_a_data_set_that_is_not_built_is_named_with_its_command(tiny_config, tmp_path):
    config = tiny_config(
        data__data_dir=str(tmp_path / "nowhere"), data__dataset="qvhighlights/internvideo2"
    )
    with config.unlocked():
        del config.synthetic
    with pytest.raises(DataError, match="flashvtg build --dataset=qvhighlights/internvideo2"):
        run(config, tmp_path / "run")


@pytest.mark.slow
def test_training_data_of_another_size_are_refused(tiny_config, tmp_path):
    run(tiny_config(train__epochs=1), tmp_path)
    bigger = tiny_config(synthetic__num_train=12, data__data_dir=str(tmp_path / "other"))
    path = tmp_path / "config.json"
    path.unlink()  # as if the configuration were the same
    with pytest.raises(CheckpointError, match="other training data"):
        run(bigger, tmp_path)


def test_evaluating_an_empty_folder_says_to_train_first(tmp_path):
    with pytest.raises(CheckpointError, match="train first"):
        evaluate(tmp_path)


def test_a_damaged_checkpoint_is_named(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    for path in (tmp_path / "run" / "best").glob("*/params/*"):
        if path.is_file():
            path.write_bytes(b"")
        else:
            shutil.rmtree(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        evaluate(tmp_path / "run", show_progress=False)


def test_selection_keeps_the_first_of_equal_scores_and_counts_patience():
    selection = Selection()
    assert selection.update(1, 0.0)
    assert not selection.update(2, 0.0)
    assert (selection.best_step, selection.without_better) == (1, 1)
    assert selection.update(3, 0.5)
    assert (selection.best_step, selection.without_better) == (3, 0)


@pytest.mark.slow
def test_early_stopping_ends_a_run_that_no_longer_improves(tiny_config, tmp_path):
    config = tiny_config(
        train__epochs=50,
        train__early_stopping_evaluations=1,
        train__evaluate_every_epochs=1,
        optimizer__learning_rate=0.0,
    )
    run(config, tmp_path)
    assert max(losses(tmp_path)) == 2 * 3


def test_the_best_parameters_alone_can_be_evaluated(finished, tmp_path):
    workdir, results, _ = finished
    shutil.copytree(workdir / "best", tmp_path / "best")
    assert evaluate(tmp_path, show_progress=False) == results


@pytest.mark.slow
def test_a_selection_newer_than_its_checkpoint_is_taken_from_the_best_one(
    finished, tiny_config, tmp_path
):
    _, results, config = finished
    run(tiny_config(train__epochs=2), tmp_path)
    for step in ("3", "6"):
        # As if a signal had saved step 6 before it was evaluated.
        for path in (tmp_path / "checkpoints" / step / "meta").glob("*"):
            text = path.read_text()
            if '"selection"' in text:
                document = json.loads(text)
                unevaluated = {"step": 0, "best_step": 0, "best": None, "without_better": 0}
                path.write_text(json.dumps({**document, "selection": unevaluated}))
    assert run(config, tmp_path) == results
    evaluated = [row["step"] for row in read_lines(tmp_path / "evaluations.jsonl")]
    assert evaluated == [0, 6, 12]


def test_a_step_that_was_not_saved_is_named_with_those_that_were(finished):
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 99; there are: .*12"):
        evaluate(finished[0], step=99, show_progress=False)


def test_a_folder_that_cannot_be_written_is_told_before_the_work(finished, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        evaluate(finished[0], output=tmp_path / "file", show_progress=False)


@pytest.mark.parametrize(("start", "lines"), [(0, 2), (3, 0)])
def test_what_is_cut_is_said_where_a_run_begins_without_a_progress_bar_too(
    tiny_config, tmp_path, monkeypatch, capsys, start, lines
):
    def start_at(runs):
        return [dataclasses.replace(run, start_step=start) for run in runs]

    monkeypatch.setattr(train_module, "with_start_steps", start_at)
    monkeypatch.setattr(Trainer, "train", lambda *_, **__: Results({}, {}, [], None))
    train(tiny_config(data__max_words=2), tmp_path, show_progress=False)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == lines
    assert all("have more than config.data.max_words=2 words and are cut" in line for line in notes)
