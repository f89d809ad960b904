"""The work directory of a run: which configuration it belongs to, and where its data are."""

from pathlib import Path

import ml_collections

from flashvtg_jax.config import diff_configs, read_config, save_config
from flashvtg_jax.errors import CheckpointError, ConfigError

# Changing these in a resumed run changes how long it goes or what it tells, not what it computes.
FREE_FIELDS = (
    "train.epochs",
    "train.log_every_steps",
    "train.evaluate_every_epochs",
    "train.checkpoint_every_epochs",
    "train.keep_checkpoints",
    "train.early_stopping_epochs",
    "evaluation",
    "data.data_dir",
    "data.manual_dir",
    "data.num_threads",
    "data.prefetch",
)


def claim_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Make the folder, or make sure that it holds a run of this very configuration.

    Raises ConfigError, listing what differs, if it holds another one, CheckpointError if the folder
    cannot be used.
    """
    path = workdir / "config.json"
    if path.exists():
        different = diff_configs(read_config(path), config, ignore=FREE_FIELDS)
        if different:
            listing = "\n  ".join(
                line.replace(" in the first", " there").replace(" in the second", " now")
                for line in different
            )
            raise ConfigError(
                f"{workdir} holds a run of another configuration:\n  {listing}\n"
                "Use another --workdir, or the same configuration to continue that run"
            )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        save_config(config, path)
    except OSError as error:
        raise CheckpointError(f"{workdir}: cannot be used as a work directory ({error})") from error


def data_folder(workdir: Path, config: ml_collections.ConfigDict) -> Path:
    """Where built data sets are: config.data.data_dir, or the work directory's own folder."""
    return workdir / "data" if config.data.data_dir is None else Path(config.data.data_dir)
