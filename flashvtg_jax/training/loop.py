"""The training loop: data, model, compiled step, checkpoints, evaluation, from top to bottom."""

import contextlib
import dataclasses
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from flashvtg_jax.checkpoints.init_from import absolute_init, check_init
from flashvtg_jax.checkpoints.manager import Checkpoints, check_space
from flashvtg_jax.config import apply_overrides, config_to_json
from flashvtg_jax.data.preparation import prepare_data
from flashvtg_jax.data.training_notes import training_notes
from flashvtg_jax.distributed.preemption import StoppedError, Stopping
from flashvtg_jax.distributed.processes import (
    all_or_none,
    by_first,
    check_same,
    from_first,
    is_first,
)
from flashvtg_jax.distributed.sharding import check_batch_size, make_mesh
from flashvtg_jax.evaluation.evaluator import Numbers, Results, write_results
from flashvtg_jax.experiments.lock import locked
from flashvtg_jax.experiments.runs import check_kind, find_runs, plan_runs, write_summary
from flashvtg_jax.experiments.workdir import (
    check_shared,
    check_workdir,
    claim_workdir,
    data_folder,
    open_fields,
)
from flashvtg_jax.figures.training import plot_training
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.checks import check_config
from flashvtg_jax.training.feeding import Caches, open_feed
from flashvtg_jax.training.logs import RunLog, SilentLog, TrainingLog
from flashvtg_jax.training.nonfinite import StepWatch
from flashvtg_jax.training.open_runs import (
    OpenRun,
    Sources,
    continued,
    describe_data,
    describe_source,
    group_runs,
    is_finished,
    open_run,
)
from flashvtg_jax.training.program import Program
from flashvtg_jax.training.resuming import find_position
from flashvtg_jax.training.selection import (
    Selection,
    describe_best,
    selection_score,
)
from flashvtg_jax.training.state import param_count


class Interrupted(Exception):
    """A signal ended training; the state is saved and the same command continues."""

    def __init__(self, signal_number: int, step: int, before: str = ""):
        where = f"before {before}" if before else f"at step {step}"
        super().__init__(f"{signal.Signals(signal_number).name} {where}")
        self.signal_number = signal_number
        self.step = step


def train(
    config: ml_collections.ConfigDict, workdir: str | Path, *, show_progress: bool = True
) -> tuple[Numbers, Numbers]:
    """Train to the end of `config.train.epochs`, from wherever the work directory stands.

    Leaves checkpoints, logs, curves, and predictions and numbers of the best checkpoint in
    `workdir`. With `config.data.domains` or `config.seeds` there is a run for each domain and seed,
    in a folder of its own; those of equal shapes are trained together, as one program, and each
    ends as it would have alone, to rounding. Runs that are finished are not repeated.

    Several processes (`flashvtg_jax.distributed.processes.connect`) train one model: all of them
    call this alike, each reads its part of every batch, and the first one writes.

    Returns the numbers of the best checkpoint without and with NMS; where there are several runs,
    the means over all that are finished in the folder, which `workdir/metrics.json` explains.

    Raises:
      ConfigError: the configuration does not fit the data, the devices or the work directory, or
        another run writes there.
      DataError: the data set is not built, or cannot be used.
      CheckpointError: a checkpoint or log cannot be read or written.
      FlashVTGError: a loss is not finite.
      PeerError: another process stopped.
      Interrupted: SIGTERM or SIGINT came; everything up to then is saved.
    """
    show_progress = show_progress and is_first()
    workdir = Path(workdir).expanduser().absolute()
    several = bool(config.data.domains or config.seeds)
    data_dir = data_folder(workdir, config).absolute()
    if several or config.data.data_dir is not None:  # so that it is found from other folders
        config = apply_overrides(config, {"data.data_dir": str(data_dir)})
    config = absolute_init(config)
    with all_or_none():
        check_config(config)
        build_model(config.model)
        check_batch_size("train", config.train.batch_size, make_mesh(config.train.batch_size))
        runs = plan_runs(config, workdir)
        check_kind(workdir, several)
        for run in runs:
            check_workdir(run.workdir, run.config, ignore=open_fields(run.config))
        check_init(runs)
    check_same("configuration", [config_to_json(config), str(workdir)])
    with contextlib.ExitStack() as locks:
        with all_or_none():
            for run in runs if is_first() else ():
                locks.enter_context(locked(run.workdir))
        by_first(partial(prepare_data, config, data_dir, show_progress=show_progress))
        with all_or_none():
            sources: Sources = {}
            opened = [open_run(run, data_dir, sources) for run in runs]
        check_same("data set", [describe_source(source) for source in sources.values()])
        check_shared([run.workdir for run in runs])
        opened = continued(opened)

        with all_or_none():
            unfinished = [run for run in opened if not several or not is_finished(run)]
        check_same("list of runs to do", [run.name for run in unfinished])
        by_first(partial(print_notes, [run for run in unfinished if run.start_step == 0]))
        programs: dict[Any, Program] = {}
        caches = Caches(show_progress=show_progress)
        with Stopping() as stopping:
            for group in group_runs(unfinished):
                if stopping.requested():  # while the last numbers of the previous group were made
                    raise Interrupted(stopping.signal, group[0].start_step, before=group[0].name)
                # The schedule counts epochs; without one, programs serve domains of any size.
                steps = group[0].plan.steps_per_epoch
                key = (len(group), config.optimizer.lr_drop and steps)
                if key not in programs:
                    programs[key] = Program(group[0].config, len(group), steps)
                results = train_together(
                    group, programs[key], caches, stopping, show_progress=show_progress
                )
        if several:
            split = config.data.val_split
            return tuple(from_first(lambda: write_summary(workdir, split, find_runs(workdir))))
        return results[0].numbers, results[0].numbers_nms


def print_notes(runs: Sequence[OpenRun]) -> None:
    """Says on stderr what runs that begin leave out of their data; without a progress bar, too."""
    for note in training_notes((run.train_source, run.val_source, run.config) for run in runs):
        print(note, file=sys.stderr)


def train_together(
    runs: Sequence[OpenRun],
    program: Program,
    caches: Caches,
    stopping: Stopping,
    *,
    show_progress: bool,
) -> list[Results]:
    """Train runs of equal shapes to their end, as one program; each as it would have been alone.

    Returns the results of each run's best checkpoint, which are also written into its folder. A
    stop that is requested saves and raises Interrupted.
    """
    plan, settings = runs[0].plan, runs[0].config.train
    num_steps = settings.epochs * plan.steps_per_epoch
    val_sources = [run.val_source for run in runs]
    by_first(lambda: [claim_workdir(run.workdir, run.config) for run in runs])
    checkpoints = [Checkpoints(run.workdir, keep=settings.keep_checkpoints) for run in runs]

    position = find_position(runs, program, checkpoints)
    step, best, selections = position.step, position.best, position.selections
    state = program.spread(position.state)
    watches = [StepWatch(run, count) for run, count in zip(runs, position.skipped, strict=True)]
    saved_best = [
        selection.best_step if manager.has_best(selection.best_step) else None
        for selection, manager in zip(selections, checkpoints, strict=True)
    ]

    def stopped(selection: Selection) -> bool:
        return selection.has_waited(settings.early_stopping_evaluations)

    def look(index: int, step: int, values: Mapping[str, float]) -> None:
        if not stopped(selections[index]):  # such a run goes on with its group, for nothing
            watches[index].look(step, values)

    def describe(index: int) -> dict[str, Any]:
        return {
            "config": json.loads(config_to_json(runs[index].config)),
            "data": describe_data(runs[index].train_source, plan),
            "selection": dataclasses.asdict(selections[index]),
            "skipped_steps": watches[index].skipped,
        }

    def save() -> None:
        log.flush()  # raises where the loss was not finite: such a state is not worth saving
        whole = program.view(state)
        with all_or_none():
            # All at once, for each would find the space that the others are about to take.
            size = sum(leaf.nbytes for leaf in jax.tree.leaves((whole, best)))
            check_space(runs[0].workdir, size)
        for index, selection in enumerate(selections):
            if selection.best is not None and selection.best_step != saved_best[index]:
                params = program.of_run(best, index)
                checkpoints[index].save_best(selection.best_step, params, describe(index))
                saved_best[index] = selection.best_step
            checkpoints[index].save(program.of_run(whole, index), describe(index))

    with contextlib.ExitStack() as stack:
        for manager in checkpoints:
            stack.enter_context(contextlib.closing(manager))
        train_cache = None
        if step < num_steps:
            train_cache = caches.get(runs[0].train_source, runs[0].config, program)
        val_cache = caches.get(runs[0].val_source, runs[0].config, program)
        feed = stack.enter_context(
            contextlib.closing(open_feed(runs, program, train_cache, start_step=step))
        )
        with all_or_none():
            logs = [
                RunLog(run.workdir, start_step=step, last_evaluation=selection.step)
                if is_first()
                else SilentLog()
                for run, selection in zip(runs, selections, strict=True)
            ]
        log = stack.enter_context(
            TrainingLog(
                logs,
                [partial(look, index) for index in range(len(runs))],
                start_step=step,
                num_steps=num_steps,
                steps_per_epoch=plan.steps_per_epoch,
                rows_per_step=settings.batch_size * len(runs),
                interval=settings.log_every_steps,
                show_progress=show_progress,
            )
        )

        def evaluate_now(due: Sequence[bool]) -> list[float | None]:
            """The scores of the runs that are due, logged."""
            log.flush()
            found = program.evaluate(
                program.view(state).params,
                val_sources,
                cache=val_cache,
                show_progress=show_progress,
                stop=stopping.requested,
            )
            scores: list[float | None] = [None] * len(runs)
            with all_or_none():
                for index in np.flatnonzero(due):
                    numbers, numbers_nms = found[index].numbers, found[index].numbers_nms
                    logs[index].evaluation(step, numbers, numbers_nms)
                    scores[index] = selection_score(numbers, settings.selection_metrics)
            return scores

        log.say(describe_start(runs, program, best, step, num_steps))
        metric = ", ".join(settings.selection_metrics)
        if len(settings.selection_metrics) > 1:
            metric = f"mean of {metric}:"
        if settings.evaluate_untrained and step == 0 and selections[0].step < 0:
            with contextlib.suppress(StoppedError):  # heard again below
                log.say(f"untrained: {metric} {np.mean(evaluate_now([True] * len(runs))):.2f}")
                for selection in selections:
                    selection.step = 0
        while True:
            if stopping.requested():  # before an evaluation: whoever sent the signal may not wait
                save()
                for manager in checkpoints:
                    manager.wait()
                raise Interrupted(stopping.signal, step)
            epoch, within = divmod(step, plan.steps_per_epoch)
            epoch_ends = step > 0 and within == 0
            last = step >= num_steps
            if last or (epoch_ends and epoch % settings.evaluate_every_epochs == 0):
                # Run by run: one may have been evaluated here before it was interrupted, or have
                # stopped early.
                due = [s.step != step and not stopped(s) for s in selections]
                if any(due):
                    try:
                        scores = evaluate_now(due)
                    except StoppedError:
                        continue
                    better = [
                        is_due and selection.update(step, score)
                        for is_due, selection, score in zip(due, selections, scores, strict=True)
                    ]
                    best = program.keep_best(better, program.view(state).params, best)
                    mean = np.mean([score for score in scores if score is not None])
                    log.evaluated(
                        f"epoch {epoch}: {metric} {mean:.2f} ({describe_best(selections)})",
                        news=any(better) or last,
                    )
            last = last or all(map(stopped, selections))
            if last or (epoch_ends and epoch % settings.checkpoint_every_epochs == 0):
                save()
            if last:
                break
            epoch_end = (epoch + 1) * plan.steps_per_epoch
            state, metrics, count = feed.advance(state, step, epoch_end - step)
            step += count
            log.add(step, metrics, count)
        for manager in checkpoints:
            manager.wait()

    # What is written from here on can be made again from the checkpoints.
    try:
        results = program.evaluate(
            best,
            val_sources,
            cache=val_cache,
            show_progress=show_progress,
            stop=stopping.requested,
        )
    except StoppedError:
        raise Interrupted(stopping.signal, step) from None
    for run, selection, found in zip(runs, selections, results, strict=True):
        about = {"split": run.config.data.val_split, "step": selection.best_step}
        by_first(partial(write_results, run.workdir, about, found))
        by_first(partial(plot_training, run.workdir))
    return results


def describe_start(
    runs: Sequence[OpenRun], program: Program, params: Any, step: int, num_steps: int
) -> str:
    """A line for the person who watches: what is trained, on how much."""
    params = program.of_run(params, 0)
    name = runs[0].config.name
    if runs[0].name:
        name += f" {', '.join(run.name for run in runs)}"
    train = sum(len(run.train_source) for run in runs)
    val = sum(len(run.val_source) for run in runs)
    return (
        f"{name}: {param_count(params) / 1e6:.2f} M parameters, {train} training and {val} "
        f"validation queries, {num_steps} steps, {program.mesh.size} "
        f"{jax.devices()[0].platform} device(s)"
        + (f" of {jax.process_count()} processes" if jax.process_count() > 1 else "")
        + (f", continuing at step {step}" if step else "")
        + (": the first one compiles" if step < num_steps else "")
    )
