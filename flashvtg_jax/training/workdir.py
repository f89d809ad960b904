"""The work directory of a run: which configuration it belongs to, and where its data are."""

from pathlib import Path

import ml_collections

from flashvtg_jax.config import diff_configs, read_config, save_config
from flashvtg_jax.errors import ConfigError

# Changing these in a resumed run changes how long it goes, how often it looks and what it tells,
# but no step and no score.
FREE_FIELDS = (
    "train.epochs",
    "train.log_every_steps",
    "train.evaluate_every_epochs",
    "train.checkpoint_every_epochs",
    "train.keep_checkpoints",
    "train.early_stopping_evaluations",
    "evaluation.batch_size",
    "evaluation.nms_threshold",
    "evaluation.nms_type",
    "data.data_dir",
    "data.manual_dir",
    "data.num_threads",
    "data.prefetch",
)


def check_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError, listing what differs, if the folder holds another configuration's run."""
    path = workdir / "config.json"
    # Only what was saved makes it a run: a start that failed may be corrected.
    saved = [*(workdir / "checkpoints").glob("*"), *(workdir / "best").glob("*")]
    begun = any(folder.name.isdigit() for folder in saved)
    if begun and path.exists():
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


def claim_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Write the configuration into the folder, making it if need be: from now on it is this run's.

    Raises DataError if the folder cannot be written.
    """
    save_config(config, workdir / "config.json")


def data_folder(workdir: Path, config: ml_collections.ConfigDict) -> Path:
    """Where built data sets are: config.data.data_dir, or the work directory's own folder."""
    return (
        workdir / "data"
        if config.data.data_dir is None
        else Path(config.data.data_dir).expanduser()
    )
