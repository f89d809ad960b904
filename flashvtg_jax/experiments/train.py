"""`train`: all runs of a configuration, one after another, each by the trainer of one run."""

import contextlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import ml_collections

from flashvtg_jax.checkpoints.init_from import absolute_init, check_init
from flashvtg_jax.config import apply_overrides, config_to_json
from flashvtg_jax.config_checks import check_config
from flashvtg_jax.data.preparation import prepare_data
from flashvtg_jax.data.training_notes import training_notes
from flashvtg_jax.distributed.processes import (
    all_or_none,
    check_same,
    from_lead_host,
    is_lead_host,
    on_lead_host,
)
from flashvtg_jax.distributed.sharding import make_mesh
from flashvtg_jax.distributed.stop_signal import Interrupted, StopSignal
from flashvtg_jax.evaluation.results import EvaluationResult
from flashvtg_jax.experiments.lock import locked
from flashvtg_jax.experiments.opening import (
    Sources,
    describe_source,
    is_finished,
    open_run,
    with_start_steps,
)
from flashvtg_jax.experiments.runs import (
    check_kind,
    find_runs,
    plan_runs,
    write_summary,
)
from flashvtg_jax.experiments.workdir import (
    check_shared,
    check_workdir,
    claim_workdir,
    data_folder,
    open_fields,
)
from flashvtg_jax.training.feeding import SplitCaches
from flashvtg_jax.training.hooks.hook import Hook
from flashvtg_jax.training.hooks.profiling import Profile
from flashvtg_jax.training.run import OpenRun
from flashvtg_jax.training.trainer import Trainer


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    show_progress: bool = True,
    hooks: Sequence[Hook] = (),
    profile: bool = False,
) -> EvaluationResult:
    """Train for `config.train.epochs`, resuming what the work directory holds.

    Leaves checkpoints, logs, curves, and the predictions and metrics of the best checkpoint in
    `workdir`. With `config.data.domains` or `config.seeds` there is a run for each domain and seed,
    in a folder of its own, and `workdir/metrics.json` holds the means; runs that are finished are
    not repeated.

    With several processes (`flashvtg_jax.distributed.processes.connect`) all of them call this
    alike, each reads its part of every batch, and the lead host writes.

    Args:
      config: of `load_config`.
      workdir: of the run, or of all of them.
      show_progress: whether to show progress on stderr.
      hooks: called around the steps of each run; see `flashvtg_jax.training.hooks.hook.Hook`.
        A run that one of them ended is not finished: the same command resumes it.
      profile: whether to trace ten dispatches of steps into the folder `profile` of each run.

    Returns:
      The metrics of the best checkpoint; with several runs, the means over all that are finished in
      the folder.

    Raises:
      ConfigError: the configuration does not fit the data, the devices or the work directory, or
        another run writes there.
      DataError: the data set is not built, or cannot be used.
      CheckpointError: a checkpoint or log cannot be read or written.
      FlashVTGError: a loss is not finite.
      PeerError: another process stopped.
      Interrupted: SIGTERM or SIGINT came; everything up to then is saved.
    """
    show_progress = show_progress and is_lead_host()
    workdir = Path(workdir).expanduser().absolute()
    several = bool(config.data.domains or config.seeds)
    data_dir = data_folder(workdir, config).absolute()
    if several or config.data.data_dir is not None:  # the saved path must work in other folders
        config = apply_overrides(config, {"data.data_dir": str(data_dir)})
    config = absolute_init(config)

    # What can be known to be wrong before anything is written.
    with all_or_none():
        check_config(config)

        make_mesh(config.train.batch_size)
        runs = plan_runs(config, workdir)
        check_kind(workdir, several)
        for run in runs:
            check_workdir(run.workdir, run.config, ignore=open_fields(run.config))
            check_init(run.config, run.workdir)
    check_same("configuration", [config_to_json(config), str(workdir)])

    with contextlib.ExitStack() as locks:
        with all_or_none():
            for run in runs if is_lead_host() else ():
                locks.enter_context(locked(run.workdir))

        # The data of all runs, and where each of them resumes.
        on_lead_host(partial(prepare_data, config, data_dir, show_progress=show_progress))
        with all_or_none():
            sources: Sources = {}
            opened = [open_run(run, data_dir, sources) for run in runs]
        check_same("data set", [describe_source(source) for source in sources.values()])
        check_shared([run.workdir for run in runs])
        opened = with_start_steps(opened)
        with all_or_none():
            unfinished = [run for run in opened if not several or not is_finished(run)]
        check_same("list of runs to do", [run.name for run in unfinished])
        on_lead_host(partial(print_notes, [run for run in unfinished if run.start_step == 0]))

        trainers: dict[int | None, Trainer] = {}  # runs share what is compiled
        caches = SplitCaches(show_progress=show_progress)
        with StopSignal() as stop:
            for run in unfinished:
                if stop.requested():  # while the results of the previous run were written
                    raise Interrupted(stop.signal, run.start_step, before=run.name)
                # Only the schedule depends on the steps of an epoch, which domains differ in.
                steps = run.plan.steps_per_epoch
                key = steps if config.optimizer.lr_drop else None
                if key not in trainers:
                    trainers[key] = Trainer(run.config, steps)
                on_lead_host(partial(claim_workdir, run.workdir, run.config))
                results = trainers[key].train(
                    run,
                    caches,
                    stop,
                    hooks=[*hooks, *([Profile()] if profile else [])],
                    show_progress=show_progress,
                )
        if not several:
            return EvaluationResult(results.metrics, results.metrics_nms)
        split = config.data.val_split
        return EvaluationResult(
            *from_lead_host(lambda: write_summary(workdir, split, find_runs(workdir)))
        )


def print_notes(runs: Sequence[OpenRun]) -> None:
    """Reports on stderr what runs that begin leave out of their data."""
    for note in training_notes((run.train_source, run.val_source, run.config) for run in runs):
        print(note, file=sys.stderr)
