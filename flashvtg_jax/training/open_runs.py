"""Runs with their data: opened, checked, told finished or not, and grouped by their shapes."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashvtg_jax.checkpoints.init_from import read_init
from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.checkpoints.recovery import find_start
from flashvtg_jax.config import add_new_fields, diff_configs, read_config
from flashvtg_jax.data.batch_plan import BatchPlan
from flashvtg_jax.data.pipeline import (
    evaluation_batches,
    train_pipeline,
    train_plan,
)
from flashvtg_jax.data.preparation import complete_config
from flashvtg_jax.data.source import SplitSource, open_split
from flashvtg_jax.distributed.processes import all_or_none, from_first
from flashvtg_jax.errors import CheckpointError, DataError, FlashVTGError
from flashvtg_jax.evaluation.evaluator import has_ground_truth
from flashvtg_jax.experiments.runs import Run
from flashvtg_jax.experiments.workdir import IDLE_FIELDS, check_workdir
from flashvtg_jax.training.checks import check_augmentation, check_strides
from flashvtg_jax.training.selection import latest_selection

Sources = dict[str, SplitSource]  # opened splits by name


@dataclasses.dataclass(frozen=True)
class OpenRun(Run):
    """A run with its data.

    Attributes:
      train_source: the split, or the domain of it, to learn from.
      val_source: to select the best checkpoint on.
      plan: the batches of each epoch.
      start_step: of the checkpoint to go on from; 0 without.
      init: parameters of another run to begin with, by path; {}: none.
    """

    train_source: SplitSource
    val_source: SplitSource
    plan: BatchPlan
    start_step: int
    init: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def open_run(run: Run, data_dir: Path, sources: Sources) -> OpenRun:
    """Open a run's data and check that they and its folder fit its configuration.

    Data that runs have in common are opened once, and kept in `sources`. Raises ConfigError,
    DataError or CheckpointError where they do not fit.
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
    return OpenRun(
        name=run.name,
        config=config,
        workdir=run.workdir,
        train_source=train_source,
        val_source=val_source,
        plan=train_plan(train_source, config),
        start_step=0,
    )


def is_finished(run: OpenRun) -> bool:
    """Whether a run has done all that its configuration says, and its results are written."""
    settings = run.config.train
    try:
        content = json.loads((run.workdir / "metrics.json").read_text())
        about = (content["split"], content["step"])
        if _changed(run):
            return False
        with contextlib.closing(Checkpoints(run.workdir, read_only=True)) as checkpoints:
            meta = checkpoints.read_meta(run.start_step)
            selection = latest_selection(checkpoints, meta, run.start_step)
    except (OSError, ValueError, KeyError, FlashVTGError):
        return False  # there is no such run, or it stopped somewhere on its way
    ended = run.start_step >= settings.epochs * run.plan.steps_per_epoch
    if not (ended or selection.has_waited(settings.early_stopping_evaluations)):
        return False
    # Results of another split or checkpoint were written by `evaluate`, or before the last epochs.
    return about == (run.config.data.val_split, selection.best_step)


def _changed(run: OpenRun) -> bool:
    saved = add_new_fields(read_config(run.workdir / "config.json"))
    return bool(diff_configs(saved, run.config, IDLE_FIELDS))


def group_runs(runs: Sequence[OpenRun]) -> Iterator[list[OpenRun]]:
    """Runs that can be trained as one program: their batches have equal shapes, step by step.

    Under pmap, and with a state that is split over the devices, each run is a program of its own.
    """
    groups: dict[Any, list[OpenRun]] = {}
    for run in runs:
        groups.setdefault((run.plan.shape_key, run.start_step), []).append(run)
    for group in groups.values():
        config = group[0].config
        alone = config.parallel.mode == "pmap" or config.parallel.shard_state
        parts = -(-len(group) // (1 if alone else config.train.runs_together))
        size = -(-len(group) // parts)  # parts of equal size share a program
        for start in range(0, len(group), size):
            yield group[start : start + size]


def continued(runs: Sequence[OpenRun]) -> list[OpenRun]:
    """The runs with where they continue; damaged checkpoints are moved away, with a warning.

    Raises CheckpointError where no checkpoint can be used (in other processes PeerError), and what
    `read_init` does.
    """

    def find_starts() -> list[int]:
        return [
            find_start(
                run.workdir, run.config.train.checkpoint_every_epochs * run.plan.steps_per_epoch
            )
            for run in runs
        ]

    starts = from_first(find_starts)
    new = [run for run, start in zip(runs, starts, strict=True) if start == 0]
    with all_or_none():
        # One model for all of them: runs differ in seed and domain alone.
        init = read_init(new[0].config) if new and new[0].config.train.init_from else {}
    return [
        dataclasses.replace(run, start_step=start, init={} if start else init)
        for run, start in zip(runs, starts, strict=True)
    ]


def describe_data(source: SplitSource, plan: BatchPlan) -> dict[str, int]:
    """What the position of the input pipeline, the step, refers to."""
    return {
        "examples": len(source),
        "batch_size": plan.batch_size,
        "steps_per_epoch": plan.steps_per_epoch,
    }


def describe_source(source: SplitSource) -> list[Any]:
    """What tells one split from another: all about it but the features themselves."""
    return [source.num_clips.tolist(), source.streams, source.query_dim, source.annotations()]


def check_same_data(saved: dict[str, int], now: dict[str, int], folder: Path) -> None:
    """Raises CheckpointError if a checkpoint's position means nothing in the data of now."""
    if saved != now:
        raise CheckpointError(
            f"{folder}: the checkpoint was written with other training data ({saved}, now {now}); "
            "use the same data set, or another --workdir"
        )
