"""Values that mean nothing are refused before training, and leave the work directory free."""

import pytest

from flashvtg_jax.config import config_names, load_config
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.experiments.train import train
from flashvtg_jax.training.checks import check_config


@pytest.mark.parametrize("name", config_names())
def test_every_configuration_passes_and_spreads_over_eight_devices(name):
    config = load_config(name)
    check_config(config)
    # Batches that are smaller than eight are spread over fewer devices.
    assert config.train.batch_size % 8 == 0 or config.train.batch_size == 4


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train.epochs", 0, "config.train.epochs is 0; it must be at least 1"),
        ("train.evaluate_every_epochs", 0, "evaluate_every_epochs is 0"),
        ("train.early_stopping_evaluations", 0, "at least 1, or None"),
        ("train.selection_metrics", (), "is empty"),
        ("seeds", (1, -1), "from 0 to 4294967295"),
        ("seeds", (1, 2, 1), "names one twice"),
        ("data.domains", ("a/b",), "cannot be the name of a folder"),
        ("seed", -1, "from 0 to 4294967295"),
        ("seed", 2**32, "from 0 to 4294967295"),
        ("data.max_words", 0, "at least 1"),
        ("data.prefetch", -1, "at least 1"),
        ("evaluation.window_range", (150.0,), "the least and the greatest second"),
        ("evaluation.window_range", (150.0, 0.0), "the least and the greatest second"),
        ("evaluation.nms_type", "soft", "holds 'soft'; it knows normal and linear"),
        ("loss.classification", "hinge", "it knows focal and binary_cross_entropy"),
        ("loss.alignment_directions", ("row", "diagonal"), "holds 'diagonal'"),
        ("train.selection_metrics", ("MR-full-map",), "the nearest is 'MR-full-mAP'"),
        ("evaluation.length_ranges", ("short:0",), "expected NAME:SECONDS:SECONDS"),
        ("evaluation.length_ranges", ("full:0:9",), "'full' is the range of all moments"),
    ],
)
def test_values_that_mean_nothing_are_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        check_config(load_config("demo", {field: value}))


def test_a_checkpoint_can_be_selected_by_an_own_range_of_lengths():
    own = {"evaluation.length_ranges": "up_to_5:0:5"}
    check_config(load_config("demo", {**own, "train.selection_metrics": "MR-up_to_5-mAP"}))
    with pytest.raises(ConfigError, match=r"'MR-short-mAP', which no .* nearest is 'MR-up_to_5-m"):
        check_config(load_config("demo", {**own, "train.selection_metrics": "MR-short-mAP"}))


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("data__val_split", "vall", "no split 'vall'"),
        ("data__video_widths__slowfast", 9, "has 6"),
        ("clip_length", 1.0, "clip_length"),
    ],
)
def test_a_start_that_failed_can_be_corrected(field, value, error, tiny_config, tmp_path):
    config = tiny_config(**{field: value})
    with config.unlocked():
        del config.synthetic  # the data are there, as real ones are
    with pytest.raises((ConfigError, DataError), match=error):
        train(config, tmp_path, show_progress=False)
    assert not (tmp_path / "config.json").exists()
