"""What is made ready before training, and what is left alone."""

import shutil

import pytest

from flashvtg_jax.config import load_config
from flashvtg_jax.data.preparation import prepare_data
from flashvtg_jax.data.source import open_split
from flashvtg_jax.data.synthetic import synthesize
from flashvtg_jax.errors import ConfigError, DataError

WIDTHS = {"slowfast": 6, "clip": 5, "query": 4}
SMALL = {
    "synthetic.num_train": 3,
    "synthetic.num_val": 2,
    "data.video_widths.slowfast": 6,
    "data.video_widths.clip": 5,
    "data.query_width": 4,
}


def demo(**changes):
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return load_config("demo", {**SMALL, **changes})


def released(**changes):
    """A configuration without a synthetic section."""
    config = demo(**changes)
    with config.unlocked():
        del config.synthetic
    return config


def prepare(config, data_dir):
    prepare_data(config, data_dir, show_progress=False)


def sizes(data_dir):
    return [len(open_split(data_dir, split=split)) for split in ("train", "val")]


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare(demo(), folder)
    return folder


def test_a_synthetic_section_is_synthesised_and_built(prepared):
    assert sizes(prepared) == [3, 2]
    source = open_split(prepared)
    assert (source.streams, source.query_dim) == ({"slowfast": 6, "clip": 5}, 4)


def test_what_is_built_is_left_as_it_is(prepared):
    before = times(prepared)
    prepare(demo(), prepared)
    assert times(prepared) == before


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seed": 7}, r"made with seed=2024, but the configuration says seed=7; use another work"),
        ({"synthetic__strength": 0.5}, r"strength=1\.0, .* says strength=0\.5"),
        ({"synthetic__num_train": 4}, r"num_train=3, .* says num_train=4"),
        ({"synthetic__num_val": 1}, r"num_val=2, .* says num_val=1"),
        ({"data__query_width": 8}, r"'query': 4.* says widths=.*'query': 8"),
    ],
)
def test_a_synthetic_data_set_of_other_settings_is_noticed(prepared, changes, problem):
    with pytest.raises(ConfigError, match=problem):
        prepare(demo(**changes), prepared)


def test_the_features_may_be_removed_once_they_are_built(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "synthetic")
    prepare(demo(), tmp_path)
    assert not (tmp_path / "synthetic").exists()


def test_manual_dir_is_built(tmp_path):
    options = {"widths": WIDTHS, "num_train": 2, "num_val": 1, "progress": False}
    manual_dir = synthesize(tmp_path / "manual", **options)
    prepare(released(data__manual_dir=str(manual_dir)), tmp_path / "data")
    assert sizes(tmp_path / "data") == [2, 1]

    shutil.rmtree(manual_dir)  # what is built needs it no more
    prepare(released(data__manual_dir=str(manual_dir)), tmp_path / "data")
    with pytest.raises(DataError, match=r"manual: no such folder"):
        prepare(released(data__manual_dir=str(manual_dir)), tmp_path / "other")


def test_with_neither_nothing_is_done(tmp_path):
    prepare(released(), tmp_path / "data")
    assert not (tmp_path / "data").exists()
