"""Runs that begin with the best parameters of another one."""

import contextlib
import shutil

import chex
import jax
import numpy as np
import pytest

from flashvtg_jax.checkpoints.init_from import absolute_init, begin_from, read_init
from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.checkpoints.restore import restore
from flashvtg_jax.errors import CheckpointError, ConfigError
from flashvtg_jax.experiments.opening import open_run, with_start_steps
from flashvtg_jax.experiments.runs import plan_runs
from flashvtg_jax.experiments.train import train
from flashvtg_jax.training.trainer import Trainer

STEPS = 3  # an epoch


def test_the_first_step_has_the_best_parameters_of_the_other_run(
    finished, tiny_config, tiny_data, tmp_path, capsys
):
    config = tiny_config(train__init_from=str(finished[0]), seeds=(1, 2))
    sources = {}
    runs = with_start_steps([open_run(r, tiny_data, sources) for r in plan_runs(config, tmp_path)])
    trainer = Trainer(runs[0].config, STEPS)
    expected = restore(finished[0]).params
    for run, seed in zip(runs, (1, 2), strict=True):
        state, best, *_ = trainer._restore(run, None)
        chex.assert_trees_all_equal(state.params, expected)
        chex.assert_trees_all_equal(best, expected)
        assert (int(state.step), int(state.seed)) == (0, seed)
        moments = jax.tree.leaves(state.opt_state)
        assert not any(np.any(np.asarray(leaf)) for leaf in moments)
    count = len(jax.tree.leaves(expected))
    told = capsys.readouterr().err
    assert told.count(f"begins with all {count} parameter arrays of {finished[0]}/best/") == 1


def test_other_parameters_are_named_and_refused_unless_asked_for(
    finished, tiny_config, tiny_data, tmp_path, capsys
):
    # One dense layer of the score heads more: the last one has another name.
    changes = {"train__init_from": str(finished[0]), "model__num_mlp_layers": 2}
    with pytest.raises(ConfigError, match="other parameters:\n") as caught:
        read_init(tiny_config(**changes))
    lines = [line.strip() for line in str(caught.value).splitlines()[1:-1]]
    assert lines and all(" here, " in line and line.endswith(" there") for line in lines)
    assert "--config.train.init_partial=True" in str(caught.value)

    config = tiny_config(**changes, train__init_partial=True)
    taken = read_init(config)
    told = capsys.readouterr().err
    assert all(line in told for line in lines)
    fresh = Trainer(config, STEPS).init(np.uint32(7))
    state = begin_from(fresh, taken)
    own, other = (
        {jax.tree_util.keystr(k, simple=True, separator="/"): v for k, v in leaves}
        for leaves in map(
            jax.tree_util.tree_leaves_with_path, (fresh.params, restore(finished[0]).params)
        )
    )
    kept = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        fits = path in other and other[path].shape == own[path].shape
        kept += not fits
        np.testing.assert_array_equal(leaf, (other if fits else own)[path])
        assert (path in told) == (not fits)
    assert kept and f"{len(own) - kept} of {len(own)} parameter arrays" in told


def test_a_model_of_which_nothing_fits_is_refused_even_so(finished, tiny_config):
    changes = {"model__hidden_dim": 12, "model__ffn_dim": 20, "model__num_dummies": 3}
    widths = {"data__video_widths.slowfast": 7, "data__query_width": 5}
    config = tiny_config(train__init_from=str(finished[0]), train__init_partial=True, **changes)
    assert read_init(config)  # single numbers still fit
    with pytest.raises(ConfigError, match=r"boundary_head/\S+: \[\d.*\] here, \[\d.*\] there"):
        read_init(tiny_config(train__init_from=str(finished[0]), **changes, **widths))


@pytest.mark.slow
def test_a_run_goes_on_without_the_folder_that_it_began_from(
    finished, tiny_config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0], "before")
    config = tiny_config(train__init_from="before", train__epochs=1)
    numbers = train(config, "run", show_progress=False)
    saved = restore("run")
    assert saved.config.train.init_from == str(tmp_path / "before")

    shutil.rmtree("before")
    assert train(config, "run", show_progress=False) == numbers
    chex.assert_trees_all_equal(restore("run").params, saved.params)
    other = tiny_config(train__init_from=str(finished[0]), train__epochs=1)
    with pytest.raises(ConfigError, match=r"train\.init_from: '.*before' there, '.*finished.* now"):
        train(other, "run", show_progress=False)


# Orbax drops the coroutines that were to read the rest of what is damaged.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_cannot_be_begun_from_is_said_before_anything_is_written(
    finished, tiny_config, tmp_path
):
    several = tmp_path / "several"
    for name in ("seed1", "seed2"):
        (several / name / "best").mkdir(parents=True)
    empty = tmp_path / "empty"
    with contextlib.closing(Checkpoints(empty)):
        pass
    damaged = shutil.copytree(finished[0], tmp_path / "damaged")
    manifest = next(damaged.glob("best/*/params/manifest.ocdbt"))
    manifest.write_bytes(manifest.read_bytes()[:20])
    for folder, message in (
        (tmp_path / "absent", r"config\.train\.init_from: .*absent: no checkpoints here"),
        (several, "several: the folder of several runs; name one of them: seed1, seed2"),
        (empty, r"config\.train\.init_from: .*empty: no finished checkpoint yet"),
        (damaged, r"damaged/best/\d+: config.train.init_from names this checkpoint, which is dam"),
    ):
        with pytest.raises(CheckpointError, match=message):
            train(tiny_config(train__init_from=str(folder)), tmp_path / "run", show_progress=False)
        assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"init_partial .* config\.train\.init_from"):
        train(tiny_config(train__init_partial=True), tmp_path / "run", show_progress=False)


def test_the_same_folder_is_the_same_configuration(tiny_config, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    for path in ("run", "./link", tmp_path / "link" / ".." / "run"):
        config = absolute_init(tiny_config(train__init_from=str(path)))
        assert config.train.init_from == str((tmp_path / "run").resolve())
