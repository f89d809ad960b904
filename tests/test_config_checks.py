"""Configurations whose values are invalid, or contradict each other, are refused."""

import pytest

from flashvtg_jax.config import config_names, load_config
from flashvtg_jax.config_checks import check_config
from flashvtg_jax.errors import ConfigError


@pytest.mark.parametrize("name", config_names())
def test_every_configuration_passes_and_suits_eight_devices(name):
    config = load_config(name)
    check_config(config)
    # Batches of fewer than eight rows use fewer devices.
    assert config.train.batch_size % 8 == 0 or config.train.batch_size == 4


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train.epochs", 0, "config.train.epochs is 0; it must be at least 1"),
        ("train.evaluate_every_epochs", 0, "evaluate_every_epochs is 0"),
        ("train.early_stopping_evaluations", 0, "at least 1, or None"),
        ("optimizer.lr_drop", 0, "at least 1, or None"),
        ("spatial_tokens", 0, "config.spatial_tokens is 0; it must be at least 1"),
        ("model.kernel_size", 4, "kernel_size=4 is even"),
        ("data.source_video", "title", "'title' is not one of youtube_id, vid"),
        ("train.init_partial", True, "name that run: config.train.init_from"),
        ("model.num_dummies", 0, "set config.loss.lw_wattn=0"),
        ("train.selection_metrics", (), "is empty"),
        ("seeds", (1, -1), "from 0 to 4294967295"),
        ("seeds", (1, 2, 1), "contains one twice"),
        ("data.domains", ("a/b",), "cannot be the name of a folder"),
        ("seed", -1, "from 0 to 4294967295"),
        ("seed", 2**32, "from 0 to 4294967295"),
        ("data.max_words", 0, "at least 1"),
        ("data.prefetch", -1, "at least 1"),
        ("evaluation.window_range", (150.0,), "the least and the greatest second"),
        ("evaluation.window_range", (150.0, 0.0), "the least and the greatest second"),
        ("evaluation.nms_type", "soft", "nms_type: 'soft' is not one of normal, linear"),
        ("loss.classification", "hinge", "not one of focal, binary_cross_entropy"),
        ("loss.alignment_directions", ("row", "diagonal"), "'diagonal' is not one of row, column"),
        ("train.selection_metrics", ("MR-full-map",), "the nearest is 'MR-full-mAP'"),
        ("evaluation.length_ranges", ("short:0",), "expected NAME:SECONDS:SECONDS"),
        ("evaluation.length_ranges", ("full:0:9",), "'full' is the range of all moments"),
    ],
)
def test_invalid_values_are_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        check_config(load_config("demo", {field: value}))


def test_a_checkpoint_can_be_selected_by_an_own_range_of_lengths():
    own = {"evaluation.length_ranges": "up_to_5:0:5"}
    check_config(load_config("demo", {**own, "train.selection_metrics": "MR-up_to_5-mAP"}))
    with pytest.raises(ConfigError, match=r"'MR-short-mAP', .* nearest is 'MR-up_to_5-m"):
        check_config(load_config("demo", {**own, "train.selection_metrics": "MR-short-mAP"}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train.steps_per_dispatch": 2}, "steps_per_dispatch=2 needs .*'jit'"),
        ({"parallel.shard_state": True}, "shard_state needs .*'jit'"),
    ],
)
def test_pmap_refuses_what_only_jit_does(fields, message):
    with pytest.raises(ConfigError, match=message):
        check_config(load_config("demo", {"parallel.mode": "pmap", **fields}))


def test_moment_queries_are_refused_where_no_moments_are_learned():
    fields = {"model.moment_head": "queries", "loss.regression": False}
    with pytest.raises(ConfigError, match="use 'pyramid' for highlight detection"):
        check_config(load_config("demo", fields))
