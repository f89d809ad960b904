"""A start that fails leaves the work directory free."""

import pytest

from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.experiments.train import train


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
