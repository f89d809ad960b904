"""The work directory of a run: which configuration it belongs to, and where its data are."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections

from flashvtg_jax.checkpoints.folders import finished_steps
from flashvtg_jax.config import add_new_fields, diff_configs, read_config, save_config
from flashvtg_jax.distributed.processes import all_or_none, from_lead_host
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.experiments.lock import LOCK_FILE

_SHARED_SECONDS = 30.0  # until a network file system shows a new file to all hosts

# Changing these does not change a finished run.
IDLE_FIELDS = (
    "train.log_every_steps",
    "train.checkpoint_every_epochs",
    "train.keep_checkpoints",
    "train.on_nan",
    "parallel.shard_state",
    "data.data_dir",
    "data.manual_dir",  # the built set knows which folder it is of
    "data.clip_windows",
    "data.num_threads",
    "data.prefetch",
    "data.cache",
    "data.cache_on_device",
    "train.steps_per_dispatch",
)

# Changing these in a resumed run changes its length, how often it is evaluated and what it logs,
# but no step and no metric.
FREE_FIELDS = (
    *IDLE_FIELDS,
    "train.epochs",
    "train.evaluate_every_epochs",
    "train.early_stopping_evaluations",
    "evaluation.batch_size",
    "evaluation.nms_threshold",
    "evaluation.nms_type",
)


def check_workdir(
    workdir: Path, config: ml_collections.ConfigDict, ignore: Sequence[str] = ()
) -> None:
    """Raises ConfigError, listing what differs, if the folder holds another configuration's run.

    `ignore`: fields that may differ, besides those that may in any resumed run.
    """
    path = workdir / "config.json"
    # Without a checkpoint it is not a run yet: after a failed start, fields may be corrected.
    begun = finished_steps(workdir / "checkpoints") or finished_steps(workdir / "best")
    if begun and path.exists():
        different = diff_configs(
            add_new_fields(read_config(path)), config, ignore=(*FREE_FIELDS, *ignore)
        )
        if different:
            listing = "\n  ".join(
                line.replace(" in the first", " there").replace(" in the second", " now")
                for line in different
            )
            raise ConfigError(
                f"{workdir} holds a run of another configuration:\n  {listing}\n"
                "Use another --workdir, or the same configuration to continue that run"
            )


def open_fields(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The fields that a configuration leaves to the data set: a saved one has them filled in."""
    data = config.data
    fields = {
        "data.video_streams": data.video_streams,
        # Of streams chosen by hand the configuration has no widths.
        "data.video_widths": set(data.video_streams) <= set(data.video_widths)
        and len(data.video_widths),
        "data.query_width": data.query_width,
        "data.labels": data.labels,
        "data.label_clip_length": data.label_clip_length,
    }
    return tuple(name for name, value in fields.items() if not value)


def claim_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Write the configuration into the folder, which from then on belongs to this run.

    Raises DataError if the folder cannot be written.
    """
    save_config(config, workdir / "config.json")


def check_shared(workdirs: Sequence[Path]) -> None:
    """Raises ConfigError if a process does not see the folders that the lead host has locked.

    Folders of the same name on the disks of two hosts are not the same.
    """

    def read() -> list[str]:
        return [(folder / LOCK_FILE).read_text(encoding="utf-8") for folder in workdirs]

    expected = from_lead_host(read)
    deadline = time.monotonic() + _SHARED_SECONDS
    found = None
    while found != expected and time.monotonic() < deadline:
        time.sleep(0 if found is None else 0.5)
        with contextlib.suppress(OSError):
            found = read()
    with all_or_none():
        if found != expected:
            raise ConfigError(
                f"{workdirs[0]}: process {jax.process_index()} does not see the work directory of "
                "process 0; it must lie on a file system that all hosts share"
            )


def data_folder(workdir: Path, config: ml_collections.ConfigDict) -> Path:
    """Where built data sets are: config.data.data_dir, or the work directory's own folder."""
    return (
        workdir / "data"
        if config.data.data_dir is None
        else Path(config.data.data_dir).expanduser()
    )
