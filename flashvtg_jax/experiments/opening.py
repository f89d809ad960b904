"""Opening runs: their data, the checkpoint they resume from, and whether they are finished."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from flashvtg_jax.checkpoints.init_from import read_init
from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.checkpoints.recovery import find_start
from flashvtg_jax.config import add_new_fields, diff_configs, read_config
from flashvtg_jax.config_checks import check_augmentation
from flashvtg_jax.data.pipeline import clip_counts, evaluation_batches, train_pipeline, train_plan
from flashvtg_jax.data.preparation import complete_config
from flashvtg_jax.data.source import SplitSource, open_split
from flashvtg_jax.distributed.processes import all_or_none, from_first
from flashvtg_jax.errors import ConfigError, DataError, FlashVTGError
from flashvtg_jax.evaluation.results import has_ground_truth
from flashvtg_jax.experiments.workdir import IDLE_FIELDS, check_workdir
from flashvtg_jax.models.pyramid import level_length
from flashvtg_jax.training.run import OpenRun, Run
from flashvtg_jax.training.selection import latest_selection

Sources = dict[str, SplitSource]  # opened splits by name


def open_run(run: Run, data_dir: Path, sources: Sources) -> OpenRun:
    """Open a run's data and check that they and its folder fit its configuration.

    Splits that runs share are opened once, and kept in `sources`. Raises ConfigError, DataError or
    CheckpointError where they do not fit.
    """
    data = run.config.data
    for split in (data.train_split, data.val_split):
        if split not in sources:
            sources[split] = open_split(data_dir, data.dataset, split, cache=data.cache)
    train_source = sources[data.train_split].select(data.domains)
    val_source = sources[data.val_split].select(data.domains)
    config = complete_config(run.config, train_source)
    check_workdir(run.workdir, config)
    check_augmentation(config)
    check_strides(config, train_source)
    if not has_ground_truth(val_source.annotations()):
        raise DataError(
            f"split {data.val_split!r} has no ground truth to select the best checkpoint by; set "
            "config.data.val_split to one that has"
        )
    # Both check that data and configuration fit, before the folder is claimed.
    train_pipeline(train_source, config).close()
    evaluation_batches(val_source, config).close()
    plan = train_plan(train_source, config)
    return OpenRun(run.name, config, run.workdir, train_source, val_source, plan)


def check_strides(config: ml_collections.ConfigDict, source: SplitSource) -> None:
    """Raises ConfigError where even the longest video is too short for a level of the pyramid.

    Shorter videos have no point at such a level, and their moments belong to the others.
    """
    longest = int(clip_counts(source, config).max())
    stride = max(config.model.strides)
    if config.model.moment_head == "pyramid" and level_length(longest, stride) == 0:
        raise ConfigError(
            f"config.model.strides={tuple(config.model.strides)}: the longest video has {longest} "
            f"clips, so that the level of stride {stride:g} would never have a point; leave it out"
        )


def with_start_steps(runs: Sequence[OpenRun]) -> list[OpenRun]:
    """The runs with the steps they resume from, and what new ones begin with.

    Damaged checkpoints are moved away, with a warning. Raises CheckpointError where no checkpoint
    can be used (PeerError in the other processes), and what `read_init` does.
    """

    def first_due(run: OpenRun) -> int:
        return run.config.train.checkpoint_every_epochs * run.plan.steps_per_epoch

    starts = from_first(lambda: [find_start(run.workdir, first_due(run)) for run in runs])
    new = [run for run, start in zip(runs, starts, strict=True) if start == 0]
    with all_or_none():
        # One model for all of them: runs differ only in seed and domain.
        init = read_init(new[0].config) if new and new[0].config.train.init_from else {}
    return [
        dataclasses.replace(run, start_step=start, init={} if start else init)
        for run, start in zip(runs, starts, strict=True)
    ]


def is_finished(run: OpenRun) -> bool:
    """Whether a run has done all that its configuration asks for, and its results are written."""
    try:
        content = json.loads((run.workdir / "metrics.json").read_text())
        about = (content["split"], content["step"])
        saved = add_new_fields(read_config(run.workdir / "config.json"))
        if diff_configs(saved, run.config, IDLE_FIELDS):
            return False
        with contextlib.closing(Checkpoints(run.workdir, read_only=True)) as checkpoints:
            meta = checkpoints.read_meta(run.start_step)
            selection = latest_selection(checkpoints, meta, run.start_step)
    except (OSError, ValueError, KeyError, FlashVTGError):
        return False  # there is no such run, or it stopped before its end
    patience = run.config.train.early_stopping_evaluations
    if run.start_step < run.num_steps and not selection.has_waited(patience):
        return False
    # Results of another split or checkpoint were written by `evaluate`, or before the last epochs.
    return about == (run.config.data.val_split, selection.best_step)


def describe_source(source: SplitSource) -> list[Any]:
    """What distinguishes one split from another: all about it but the features themselves."""
    return [source.num_clips.tolist(), source.streams, source.query_dim, source.annotations()]
