"""The configuration of the committed studies: the demo's model, on features made for annotations.

    flashvtg study ablation --config=benchmarks/study_config.py:features --workdir=runs/studies

The argument is the folder that `flashvtg synthesize` wrote for a part of QVHighlights' annotation
files (`benchmarks/studies.sh`). Queries, moments and ratings are real, features are not: the
studies say what the parts of the model do with planted moments, not how good it is on videos.
"""

from ml_collections import ConfigDict

from flashvtg_jax.configs import demo
from flashvtg_jax.errors import ConfigError


def get_config(arg: str | None = None) -> ConfigDict:
    """The demo's configuration; the argument is the folder of features and annotations."""
    if arg is None:
        raise ConfigError("name the folder of the features: benchmarks/study_config.py:DIR")
    config = demo.get_config()
    config.name = "study"  # of the experiment
    del config.synthetic  # its annotations are generated; these are real
    config.data.manual_dir = arg  # to build from
    config.train.evaluate_untrained = False  # the table compares trained models
    config.train.epochs = 40  # passes over the training split: the moments are harder to see
    config.train.evaluate_every_epochs = 8  # epochs between evaluations
    config.train.checkpoint_every_epochs = 8  # epochs between checkpoints
    return config
