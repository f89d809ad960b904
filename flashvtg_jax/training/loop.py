"""The training loop: data, model, compiled step, checkpoints, evaluation, from top to bottom."""

import contextlib
import dataclasses
import json
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from flashvtg_jax.config import apply_overrides, config_to_json
from flashvtg_jax.data.batch import Batch
from flashvtg_jax.data.pipeline import joint_train_pipeline, train_pipeline
from flashvtg_jax.data.preparation import prepare_data
from flashvtg_jax.evaluation import Numbers, Results, write_results
from flashvtg_jax.figures.training import plot_training
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.checkpoints import Checkpoints, check_space
from flashvtg_jax.training.checks import check_config
from flashvtg_jax.training.logs import RunLog, TrainingLog
from flashvtg_jax.training.open_runs import (
    OpenRun,
    Sources,
    check_same_data,
    describe_data,
    group_runs,
    is_finished,
    open_run,
)
from flashvtg_jax.training.parallel import check_batch_size, make_mesh
from flashvtg_jax.training.program import Program, on_device
from flashvtg_jax.training.runs import check_kind, find_runs, plan_runs, write_summary
from flashvtg_jax.training.selection import (
    Selection,
    describe_best,
    latest_selection,
    selection_score,
)
from flashvtg_jax.training.state import TrainState, param_count
from flashvtg_jax.training.workdir import check_workdir, claim_workdir, data_folder, open_fields


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
    `workdir`. With
    `config.data.domains` or `config.seeds` there is a run for each domain and seed, in a folder of
    its own; those of equal shapes are trained together, as one program, and each ends as it would
    have alone, to rounding. Runs that are finished are not repeated.

    Returns the numbers of the best checkpoint without and with NMS; where there are several runs,
    the means over all that are finished in the folder, which `workdir/metrics.json` explains.

    Raises:
      ConfigError: the configuration does not fit the data, the devices or the work directory.
      DataError: the data set is not built, or cannot be used.
      CheckpointError: a checkpoint or log cannot be read or written.
      FlashVTGError: a loss is not finite.
      Interrupted: SIGTERM or SIGINT came; everything up to then is saved.
    """
    check_config(config)
    build_model(config.model)
    check_batch_size("train", config.train.batch_size, make_mesh(config.train.batch_size))
    workdir = Path(workdir).expanduser().absolute()
    data_dir = data_folder(workdir, config).absolute()
    several = bool(config.data.domains or config.seeds)
    if several or config.data.data_dir is not None:  # so that it is found from other folders
        config = apply_overrides(config, {"data.data_dir": str(data_dir)})
    runs = plan_runs(config, workdir)
    check_kind(workdir, several)
    for run in runs:
        check_workdir(run.workdir, run.config, ignore=open_fields(run.config))
    prepare_data(config, data_dir, show_progress=show_progress)
    sources: Sources = {}
    opened = [open_run(run, data_dir, sources) for run in runs]

    unfinished = [run for run in opened if not several or not is_finished(run)]
    programs: dict[Any, Program] = {}
    with catch_signals() as caught:
        for group in group_runs(unfinished):
            if caught:  # while the last numbers of the previous group were made
                raise Interrupted(caught[0], group[0].start_step, before=group[0].name)
            # The schedule counts epochs; without one, programs serve domains of any size.
            steps = group[0].plan.steps_per_epoch
            key = (len(group), config.optimizer.lr_drop and steps)
            if key not in programs:
                programs[key] = Program(group[0].config, len(group), steps)
            results = train_together(group, programs[key], caught, show_progress=show_progress)
    if several:
        return write_summary(workdir, config.data.val_split, find_runs(workdir))
    return results[0].numbers, results[0].numbers_nms


def train_together(
    runs: Sequence[OpenRun], program: Program, caught: Sequence[int], *, show_progress: bool
) -> list[Results]:
    """Train runs of equal shapes to their end, as one program; each as it would have been alone.

    Returns the results of each run's best checkpoint, which are also written into its folder. A
    signal in `caught` saves and raises Interrupted.
    """
    plan, settings = runs[0].plan, runs[0].config.train
    num_steps = settings.epochs * plan.steps_per_epoch
    val_sources = [run.val_source for run in runs]
    for run in runs:
        claim_workdir(run.workdir, run.config)
    checkpoints = [Checkpoints(run.workdir, keep=settings.keep_checkpoints) for run in runs]

    seeds = np.array([run.config.seed for run in runs], np.uint32)
    state = program.init(seeds if len(runs) > 1 else seeds[0])
    best = state.params  # of the best step of each run; nothing is, so far
    selections = [Selection() for _ in runs]
    step = runs[0].start_step
    if step > 0:
        restored, restored_best = [], []
        for index, run in enumerate(runs):
            meta = checkpoints[index].read_meta(step)
            check_same_data(meta["data"], describe_data(run.train_source, plan), run.workdir)
            one = checkpoints[index].restore(step, program.of_run(state, index))
            selection = latest_selection(checkpoints[index], meta, step)
            restored.append(one)
            restored_best.append(one.params)
            if selection.best is not None:
                checkpoints[index].drop_other_best(selection.best_step)
                restored_best[-1] = checkpoints[index].restore_params(
                    selection.best_step, one.params
                )
            selections[index] = selection
        state, best = program.together(restored), program.together(restored_best)
    best = jax.tree.map(jnp.copy, best)  # the next step overwrites the state
    saved_best = [selection.best_step for selection in selections]

    def stopped(selection: Selection) -> bool:
        return selection.has_waited(settings.early_stopping_evaluations)

    def describe(index: int) -> dict[str, Any]:
        return {
            "config": json.loads(config_to_json(runs[index].config)),
            "data": describe_data(runs[index].train_source, plan),
            "selection": dataclasses.asdict(selections[index]),
        }

    def save() -> None:
        # All at once, for each would find the space that the others are about to take.
        check_space(runs[0].workdir, sum(leaf.nbytes for leaf in jax.tree.leaves((state, best))))
        for index, selection in enumerate(selections):
            if selection.best is not None and selection.best_step != saved_best[index]:
                params = program.of_run(best, index)
                checkpoints[index].save_best(selection.best_step, params, describe(index))
                saved_best[index] = selection.best_step
            checkpoints[index].save(program.of_run(state, index), describe(index))

    with contextlib.ExitStack() as stack:
        for manager in checkpoints:
            stack.enter_context(contextlib.closing(manager))
        batches = stack.enter_context(contextlib.closing(open_batches(runs, start_step=step)))
        logs = [
            RunLog(run.workdir, start_step=step, last_evaluation=selection.step)
            for run, selection in zip(runs, selections, strict=True)
        ]
        log = stack.enter_context(
            TrainingLog(
                logs,
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
            found = program.evaluate(state.params, val_sources, show_progress=show_progress)
            scores: list[float | None] = [None] * len(runs)
            for index in np.flatnonzero(due):
                numbers, numbers_nms = found[index].numbers, found[index].numbers_nms
                logs[index].evaluation(step, numbers, numbers_nms)
                scores[index] = selection_score(numbers, settings.selection_metrics)
            return scores

        log.say(describe_start(runs, program, state, step, num_steps))
        metric = ", ".join(settings.selection_metrics)
        if len(settings.selection_metrics) > 1:
            metric = f"mean of {metric}:"
        if settings.evaluate_untrained and step == 0 and selections[0].step < 0:
            log.say(f"untrained: {metric} {np.mean(evaluate_now([True] * len(runs))):.2f}")
            for selection in selections:
                selection.step = 0
        device_batches = on_device(batches, program.mesh, program.row_axis)
        while True:
            if caught:  # before an evaluation that is due: whoever sent the signal may not wait
                log.flush()
                save()
                for manager in checkpoints:
                    manager.wait()
                raise Interrupted(caught[0], step)
            epoch, within = divmod(step, plan.steps_per_epoch)
            epoch_ends = step > 0 and within == 0
            last = step >= num_steps
            if last or (epoch_ends and epoch % settings.evaluate_every_epochs == 0):
                # Run by run: one may have been evaluated here before it was interrupted, or have
                # stopped early.
                due = [s.step != step and not stopped(s) for s in selections]
                if any(due):
                    scores = evaluate_now(due)
                    better = [
                        is_due and selection.update(step, score)
                        for is_due, selection, score in zip(due, selections, scores, strict=True)
                    ]
                    best = program.keep_best(better, state.params, best)
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
            state, metrics = program.step(state, next(device_batches))
            step += 1
            log.add(step, metrics)
        for manager in checkpoints:
            manager.wait()

    # What is written from here on can be made again from the checkpoints.
    results = program.evaluate(best, val_sources, show_progress=show_progress)
    for run, selection, found in zip(runs, selections, results, strict=True):
        about = {"split": run.config.data.val_split, "step": selection.best_step}
        write_results(run.workdir, about, found)
        plot_training(run.workdir)
    return results


def open_batches(runs: Sequence[OpenRun], start_step: int) -> grain.DatasetIterator[Batch]:
    """The training batches of one run, or those of several stacked along a first axis."""
    if len(runs) == 1:
        return train_pipeline(runs[0].train_source, runs[0].config, start_step=start_step)
    sources, configs = [run.train_source for run in runs], [run.config for run in runs]
    return joint_train_pipeline(sources, configs, start_step=start_step)


def describe_start(
    runs: Sequence[OpenRun], program: Program, state: TrainState, step: int, num_steps: int
) -> str:
    """A line for the person who watches: what is trained, on how much."""
    params = program.of_run(state.params, 0)
    name = runs[0].config.name
    if runs[0].name:
        name += f" {', '.join(run.name for run in runs)}"
    train = sum(len(run.train_source) for run in runs)
    val = sum(len(run.val_source) for run in runs)
    return (
        f"{name}: {param_count(params) / 1e6:.2f} M parameters, {train} training and {val} "
        f"validation queries, {num_steps} steps, {program.mesh.size} "
        f"{jax.devices()[0].platform} device(s)"
        + (f", continuing at step {step}" if step else "")
        + (": the first one compiles" if step < num_steps else "")
    )


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """A list that SIGTERM and SIGINT add themselves to; a second SIGINT interrupts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may handle signals
        return

    def handle(number: int, _: Any) -> None:
        if number == signal.SIGINT and caught:
            raise KeyboardInterrupt
        caught.append(number)

    signals = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, handle) for number in signals}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
