"""Pieces of training by themselves: the step, the logs, the schedule, the meshes."""

import json
import subprocess
import sys
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashvtg_jax.data.pipeline import train_pipeline
from flashvtg_jax.data.source import open_split
from flashvtg_jax.errors import ConfigError, FlashVTGError
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.logs import TrainingLog
from flashvtg_jax.training.parallel import check_batch_size, make_mesh
from flashvtg_jax.training.state import feature_widths, init_state, make_optimizer
from flashvtg_jax.training.step import make_train_step


def make_log(folder, start_step=0, interval=2):
    return TrainingLog(
        folder,
        start_step=start_step,
        num_steps=10,
        steps_per_epoch=5,
        rows_per_step=4,
        interval=interval,
        show_progress=False,
    )


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_one_step_compiles_once_and_keeps_shapes_and_types(tiny_config, tiny_data):
    config = tiny_config()
    source = open_split(tiny_data, config.data.dataset, "train")
    model = build_model(config.model)
    optimizer = make_optimizer(config.optimizer, 3)
    state = init_state(model, optimizer, config.seed, *feature_widths(config.data))
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
    with make_log(tmp_path, interval=4) as log:
        for step in range(1, 8):
            log.add(step, {"loss": jnp.float32(step)})
    assert steps_of(tmp_path / "train.jsonl") == list(range(1, 8))
    assert copies == [4, 1, 2]  # the interval, the end of the epoch, the end


def test_a_resumed_log_drops_what_will_be_repeated_and_half_a_line(tmp_path):
    with make_log(tmp_path) as log:
        for step in range(1, 6):
            log.add(step, {"loss": jnp.float32(step)})
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with make_log(tmp_path, start_step=3) as log:
        log.add(4, {"loss": jnp.float32(4)})
    assert steps_of(tmp_path / "train.jsonl") == [1, 2, 3, 4]


def test_a_loss_that_is_not_finite_stops_and_is_named(tmp_path):
    with (
        pytest.raises(FlashVTGError, match="step 2: alignment not finite"),
        make_log(tmp_path, interval=3) as log,
    ):
        for step in range(1, 4):
            value = jnp.float32(np.nan if step == 2 else 1)
            log.add(step, {"loss": jnp.float32(1), "alignment": value})


def test_a_batch_that_devices_cannot_share_is_refused():
    mesh = SimpleNamespace(size=3)
    with pytest.raises(ConfigError, match=r"train\.batch_size is 4, which 3 devices"):
        check_batch_size("train", 4, mesh)
    check_batch_size("train", 6, mesh)
    assert make_mesh().size == jax.device_count()


EIGHT_DEVICES = """
import json, sys
from flashvtg_jax.config import read_config
from flashvtg_jax.training.loop import train
import jax
assert jax.device_count() == 8
train(read_config(sys.argv[1]), sys.argv[2], show_progress=False)
"""


def test_eight_devices_compute_what_one_does(tiny_config, tmp_path):
    from flashvtg_jax.config import save_config
    from flashvtg_jax.training.loop import train

    config = tiny_config(train__batch_size=8, evaluation__batch_size=8, train__epochs=2)
    path = tmp_path / "config.json"
    save_config(config, path)
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    import os

    subprocess.run(
        [sys.executable, "-c", EIGHT_DEVICES, path, tmp_path / "eight"],
        check=True,
        env={**os.environ, **environment},
    )
    train(config, tmp_path / "one", show_progress=False)
    eight, one = (
        [json.loads(line) for line in (tmp_path / name / "train.jsonl").read_text().splitlines()]
        for name in ("eight", "one")
    )
    assert len(eight) == len(one) == 4
    for ours, theirs in zip(eight, one, strict=True):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)
