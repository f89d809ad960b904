"""Pieces of training by themselves: the step, the logs, the schedule, the meshes."""

import contextlib
import json
import shutil
import struct
import subprocess
import sys
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.data.batch import feature_widths
from flashvtg_jax.data.pipeline import train_pipeline
from flashvtg_jax.data.source import open_split
from flashvtg_jax.errors import CheckpointError
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.hooks.hook import Training
from flashvtg_jax.training.hooks.logs import LogFiles
from flashvtg_jax.training.hooks.metric_buffer import MetricBuffer
from flashvtg_jax.training.optimizer import make_optimizer
from flashvtg_jax.training.state import TrainState, init_state
from flashvtg_jax.training.step import make_train_step


@contextlib.contextmanager
def open_logs(folder, start_step=0, interval=2):
    """The metrics of ten steps of two epochs, on their way from the devices to the log files."""
    run = SimpleNamespace(plan=SimpleNamespace(steps_per_epoch=5), num_steps=10)
    training = Training(run, start_step, device_state=None, unstack=None)
    buffer = MetricBuffer(training, interval=interval, rows_per_step=4)
    logs = LogFiles(folder, start_step=start_step, last_evaluation=start_step)
    training.hooks = [buffer, logs]
    with contextlib.closing(logs):
        yield buffer
        buffer.flush()


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_one_step_compiles_once_and_keeps_shapes_and_types(tiny_config, tiny_data):
    config = tiny_config()
    source = open_split(tiny_data, config.data.dataset, "train")
    model = build_model(config.model)
    optimizer = make_optimizer(config.optimizer, 3)
    widths = feature_widths(config.data)
    state = jax.jit(lambda: init_state(model, optimizer, *widths, config.seed))()
    traced = chex.assert_max_traces(make_train_step(model, optimizer, config.loss), n=1)
    step = jax.jit(traced)
    before = state
    batches = train_pipeline(source, config)
    for batch in batches:
        state, metrics = step(state, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, state)
    chex.assert_tree_all_finite(state)
    assert int(state.step) == 12
    assert set(metrics) == {
        "loss",
        "classification",
        "regression",
        "alignment",
        "saliency",
        "clip_aware",
        "gradient_norm",
    }


def test_learning_rate_is_constant_unless_told_to_halve():
    def rates(lr_drop):
        config = SimpleNamespace(
            learning_rate=1.0, weight_decay=0.0, gradient_clip_norm=1e9, lr_drop=lr_drop
        )
        optimizer = make_optimizer(config, steps_per_epoch=2)
        params = jnp.zeros(())
        state, found = optimizer.init(params), []
        for _ in range(6):
            # With a constant gradient Adam's step is the learning rate itself.
            updates, state = optimizer.update(jnp.ones(()), state, params)
            found.append(-float(updates))
        return found

    np.testing.assert_allclose(rates(None), [1.0] * 6, rtol=1e-4)
    np.testing.assert_allclose(rates(1), [1, 1, 0.5, 0.5, 0.25, 0.25], rtol=1e-4)


def test_log_has_a_line_for_each_step_and_one_host_copy_for_each_interval(tmp_path, monkeypatch):
    copies = []
    device_get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: copies.append(len(x)) or device_get(x))
    with open_logs(tmp_path, interval=4) as log:
        for step in range(1, 8):
            log.add(step, {"loss": jnp.full(1, step)}, 1)
    assert steps_of(tmp_path / "train.jsonl") == list(range(1, 8))
    assert copies == [3, 4]  # the interval, but for the step that may still be computed; the end


def test_a_dispatch_of_several_steps_has_a_line_for_each_that_it_did(tmp_path):
    with open_logs(tmp_path) as log:
        log.add(3, {"loss": jnp.array([1.0, 2.0, 3.0, 0.0])}, 3)  # of four it could do
        log.add(5, {"loss": jnp.array([4.0, 5.0, 0.0, 0.0])}, 2)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(i, i) for i in range(1, 6)]


def test_a_resumed_log_drops_what_will_be_repeated_and_half_a_line(tmp_path):
    with open_logs(tmp_path) as log:
        for step in range(1, 6):
            log.add(step, {"loss": jnp.full(1, step)}, 1)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with open_logs(tmp_path, start_step=3) as log:
        log.add(4, {"loss": jnp.full(1, 4)}, 1)
    assert steps_of(tmp_path / "train.jsonl") == [1, 2, 3, 4]


def make_state(step, value=0.0):
    return TrainState(
        step=jnp.int32(step),
        params={"w": jnp.full((3,), value, jnp.float32)},
        opt_state={"m": jnp.full((3,), value, jnp.float32)},
        seed=jnp.uint32(0),
    )


def test_the_best_checkpoint_outlives_later_ones_and_a_new_process(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 2):
        checkpoints.save_best(step, make_state(step, step).params, {"note": step})
        checkpoints.save(make_state(step, step), {"note": step})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (3, 4, 5):
        checkpoints.save(make_state(step, step), {"note": step})
    checkpoints.wait()
    assert (checkpoints.latest_step(), checkpoints.best_step()) == (5, 2)
    np.testing.assert_array_equal(checkpoints.restore_params(2, make_state(0).params)["w"], [2] * 3)
    restored = checkpoints.restore(5, make_state(0))
    chex.assert_trees_all_equal(restored, make_state(5, 5))
    assert checkpoints.read_meta(2)["note"] == 2
    with pytest.raises(CheckpointError, match="no checkpoint of step 3; there are: 1, 2, 5"):
        checkpoints.read_meta(3)
    checkpoints.close()


def test_best_parameters_that_no_state_names_are_dropped(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (2, 5):
        checkpoints.save_best(step, make_state(step, step).params, {})
    checkpoints.wait()
    checkpoints.drop_best_after(2)  # killed before the state of step 5 or later was saved
    assert checkpoints.best_step() == 2
    checkpoints.save_best(3, make_state(3, 3).params, {})
    checkpoints.wait()
    assert checkpoints.best_step() == 3
    np.testing.assert_array_equal(checkpoints.restore_params(2, make_state(0).params)["w"], [2] * 3)
    checkpoints.drop_best_after(9)
    assert checkpoints.best_step() == 3
    checkpoints.close()


FULL_DISK = """
import resource, signal, sys
import jax.numpy as jnp
from flashvtg_jax.errors import CheckpointError
from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.training.state import TrainState
def state(step):
    params, opt_state = {"w": jnp.ones(200_000)}, {"m": jnp.ones(3)}
    return TrainState(step=jnp.int32(step), params=params, opt_state=opt_state, seed=jnp.uint32(0))

checkpoints = Checkpoints(sys.argv[1], keep=2)
checkpoints.save(state(1), {})
checkpoints.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    checkpoints.save(state(2), {})
    checkpoints.close()
except CheckpointError as error:
    print(error)
"""


def test_a_full_disk_is_told_and_leaves_the_last_good_checkpoint_alone(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True
    )
    assert "could not be written" in done.stdout, done.stderr
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert checkpoints.latest_step() == 1


FULL_DISK_FOR_LOGS = """
import resource, signal, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from flashvtg_jax.errors import CheckpointError
from flashvtg_jax.training.hooks.logs import LogFiles

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
run = SimpleNamespace(plan=SimpleNamespace(steps_per_epoch=10))
training = SimpleNamespace(run=run, samples_per_second=None)
logs = LogFiles(Path(sys.argv[1]), start_step=0, last_evaluation=-1)
try:
    for step in range(1, 1000):
        logs.on_metrics(training, [step], {"loss": np.ones(1)})
except CheckpointError as error:
    print(error)
logs.close()
"""


def test_a_checkpoint_that_will_not_fit_is_not_begun(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(make_state(1), {})
    checkpoints.wait()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 2**19))
    large = make_state(2).replace(params={"w": jnp.ones(2**18)})
    with pytest.raises(CheckpointError, match=r"takes 1\.0 MiB, 1\.5 MiB are free"):
        checkpoints.save(large, {})
    checkpoints.close()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_logs_on_a_full_disk_end_in_one_clear_error(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK_FOR_LOGS, tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "its logs cannot be written" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr


def read_records(path):
    """The records of a TFRecord file: length, its checksum, bytes, their checksum."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_events_are_readable_and_hide_what_is_repeated(tmp_path):
    with open_logs(tmp_path) as log:
        for step in range(1, 5):
            log.add(step, {"loss": jnp.full(1, step)}, 1)
    with open_logs(tmp_path, start_step=2) as log:
        log.add(3, {"loss": jnp.full(1, 3)}, 1)
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert len(files) == 2
    events = [Event.FromString(event) for path in files for event in read_records(path)]
    scalars = {(e.step, e.summary.value[0].tag) for e in events if e.summary.value}
    assert (4, "train/loss") in scalars
    assert [e.step for e in events if e.HasField("session_log")] == [3]
