"""A data set of a few videos, really built, and a configuration that trains on it in seconds."""

import pytest

from flashvtg_jax.config import load_config
from flashvtg_jax.data.preparation import prepare_data
from flashvtg_jax.experiments.train import train
from flashvtg_jax.training.hooks.figures import Curves

TINY = {
    "model.hidden_dim": 8,
    "model.num_heads": 2,
    "model.ffn_dim": 16,
    "model.t2v_layers": 1,
    "model.num_dummies": 2,
    "model.n_input_proj": 1,
    "model.num_mlp_layers": 1,
    "model.strides": (1.0, 2.0),
    "model.dropout": 0.1,
    "model.drop_path": 0.1,
    "synthetic.num_train": 10,
    "synthetic.num_val": 6,
    "data.video_widths.slowfast": 6,
    "data.video_widths.clip": 4,
    "data.query_width": 4,
    "train.batch_size": 4,
    "train.epochs": 4,
    "train.evaluate_every_epochs": 2,
    "train.checkpoint_every_epochs": 1,
    "train.log_every_steps": 2,
    "evaluation.batch_size": 4,
}


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Runs of a test draw no figure, which takes longer than they do; `finished` does."""
    monkeypatch.setattr(Curves, "on_end", lambda self, training: None)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Folder with the tiny data set, built once."""
    folder = tmp_path_factory.mktemp("data")
    prepare_data(load_config("demo", TINY), folder, show_progress=False)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_data):
    """A work directory of an undisturbed run, the numbers it returned, and its configuration.

    Not to be written into: copy it.
    """
    workdir = tmp_path_factory.mktemp("finished")
    config = load_config("demo", {**TINY, "data.data_dir": str(tiny_data)})
    return workdir, train(config, workdir, show_progress=False), config


@pytest.fixture
def tiny_config(tiny_data):
    """The tiny configuration; call it with further overrides."""

    def make(**overrides):
        fields = {key.replace("__", "."): value for key, value in overrides.items()}
        return load_config("demo", {**TINY, "data.data_dir": str(tiny_data), **fields})

    return make
