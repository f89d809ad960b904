"""The training loop: data, model, compiled step, checkpoints, evaluation, from top to bottom."""

import collections
import contextlib
import dataclasses
import json
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from flashvtg_jax.config import apply_overrides, config_to_json, diff_configs, read_config
from flashvtg_jax.data.batch import Batch
from flashvtg_jax.data.batch_plan import BatchPlan
from flashvtg_jax.data.pipeline import (
    evaluation_batches,
    joint_train_pipeline,
    train_pipeline,
    train_plan,
)
from flashvtg_jax.data.preparation import complete_config, prepare_data
from flashvtg_jax.data.source import SplitSource, open_split
from flashvtg_jax.errors import CheckpointError, ConfigError, DataError, FlashVTGError
from flashvtg_jax.evaluation import (
    Evaluator,
    Numbers,
    Results,
    has_ground_truth,
    write_results,
)
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.checkpoints import Checkpoints
from flashvtg_jax.training.checks import check_config
from flashvtg_jax.training.logs import RunLog, TrainingLog
from flashvtg_jax.training.parallel import check_batch_size, make_mesh, put_batch, replicated
from flashvtg_jax.training.runs import Run, plan_runs, write_summary
from flashvtg_jax.training.state import (
    TrainState,
    feature_widths,
    init_state,
    make_optimizer,
    param_count,
)
from flashvtg_jax.training.step import make_train_step
from flashvtg_jax.training.workdir import (
    IDLE_FIELDS,
    check_workdir,
    claim_workdir,
    data_folder,
    open_fields,
)

Sources = dict[str, SplitSource]  # opened splits by name


class Interrupted(Exception):
    """A signal ended training; the state is saved and the same command continues."""

    def __init__(self, signal_number: int, step: int):
        super().__init__(f"{signal.Signals(signal_number).name} at step {step}")
        self.signal_number = signal_number
        self.step = step


def train(
    config: ml_collections.ConfigDict, workdir: str | Path, *, show_progress: bool = True
) -> tuple[Numbers, Numbers]:
    """Train to the end of `config.train.epochs`, from wherever the work directory stands.

    Leaves checkpoints, logs, and predictions and numbers of the best checkpoint in `workdir`. With
    `config.data.domains` or `config.seeds` there is a run for each domain and seed, in a folder of
    its own; those of equal shapes are trained together, as one program, and each ends as it would
    have alone, to rounding. Runs that are finished are not repeated.

    Returns the numbers of the best checkpoint without and with NMS; of several runs the means over
    domains and seeds, which `workdir/metrics.json` explains.

    Raises:
      ConfigError: the configuration does not fit the data, the devices or the work directory.
      DataError: the data set is not built, or cannot be used.
      CheckpointError: a checkpoint or log cannot be read or written.
      FlashVTGError: a loss is not finite.
      Interrupted: SIGTERM or SIGINT came; everything up to then is saved.
    """
    check_config(config)
    workdir = Path(workdir).expanduser().absolute()
    data_dir = data_folder(workdir, config).absolute()
    several = bool(config.data.domains or config.seeds)
    if several or config.data.data_dir is not None:  # so that it is found from other folders
        config = apply_overrides(config, {"data.data_dir": str(data_dir)})
    runs = plan_runs(config, workdir)
    for run in runs:
        check_workdir(run.workdir, run.config, ignore=open_fields(run.config))
    prepare_data(config, data_dir, show_progress=show_progress)
    sources: Sources = {}
    opened = [open_run(run, data_dir, sources) for run in runs]

    results: dict[str, tuple[Numbers, Numbers]] = {}
    if several:
        results = {run.name: found for run in opened if (found := finished_results(run))}
    programs: dict[Any, Program] = {}
    with catch_signals() as caught:
        for group in group_runs([run for run in opened if run.name not in results]):
            if caught:  # while the last numbers of the previous group were made
                raise Interrupted(caught[0], group[0].start_step)
            # The schedule counts epochs; without one, programs serve domains of any size.
            steps = group[0].plan.steps_per_epoch if config.optimizer.lr_drop is not None else None
            key = (len(group), steps)
            if key not in programs:
                programs[key] = Program(group[0], len(group))
            found = train_together(group, programs[key], caught, show_progress=show_progress)
            results |= zip([run.name for run in group], found, strict=True)
    if not several:
        return results[""]
    ordered = {run.name: results[run.name] for run in runs}
    return write_summary(workdir, config.data.val_split, ordered)


@dataclasses.dataclass(frozen=True)
class OpenRun(Run):
    """A run with its data.

    Attributes:
      train_source: the split, or the domain of it, to learn from.
      val_source: to select the best checkpoint on.
      plan: the batches of each epoch.
      start_step: of its latest checkpoint; 0 without.
    """

    train_source: SplitSource
    val_source: SplitSource
    plan: BatchPlan
    start_step: int


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
        start_step=latest_step(run.workdir),
    )


def finished_results(run: OpenRun) -> tuple[Numbers, Numbers] | None:
    """The numbers of a run that has done all that its configuration says, else None."""
    settings = run.config.train
    try:
        content = json.loads((run.workdir / "metrics.json").read_text())
        if diff_configs(read_config(run.workdir / "config.json"), run.config, IDLE_FIELDS):
            return None
        with contextlib.closing(Checkpoints(run.workdir, read_only=True)) as checkpoints:
            meta = checkpoints.read_meta(run.start_step)
        about = (content.pop("split"), content.pop("step"))
    except (OSError, ValueError, KeyError, FlashVTGError):
        return None  # there is no such run, or it stopped somewhere on its way
    selection = Selection(**meta["selection"])
    ended = run.start_step >= settings.epochs * run.plan.steps_per_epoch
    if not (ended or selection.has_waited(settings.early_stopping_evaluations)):
        return None
    # Results of another split or checkpoint were written by `evaluate`, or before the last epochs.
    if about != (run.config.data.val_split, selection.best_step):
        return None
    numbers_nms = content.pop("with_nms", {})
    return content, numbers_nms


def group_runs(runs: Sequence[OpenRun]) -> Iterator[list[OpenRun]]:
    """Runs that can be trained as one program: their batches have equal shapes, step by step."""
    groups: dict[Any, list[OpenRun]] = {}
    for run in runs:
        groups.setdefault((run.plan.shape_key, run.start_step), []).append(run)
    for group in groups.values():
        size = group[0].config.train.runs_together
        for start in range(0, len(group), size):
            yield group[start : start + size]


class Program:
    """The compiled functions that groups of equally many runs share.

    Everything that changes has the runs along a first axis, unless there is one run only.
    """

    def __init__(self, run: OpenRun, num_runs: int):
        config = run.config
        self.num_runs = num_runs
        self.mesh = make_mesh(config.train.batch_size)
        check_batch_size("train", config.train.batch_size, self.mesh)
        model = build_model(config.model)
        optimizer = make_optimizer(config.optimizer, run.plan.steps_per_epoch)
        self.evaluator = Evaluator(model, config, self.mesh)
        init = partial(init_state, model, optimizer, *feature_widths(config.data))
        step = make_train_step(model, optimizer, config.loss)
        if num_runs > 1:
            init, step = jax.vmap(init), jax.vmap(step)
        # The state lives on every device and is donated: each step overwrites it in place.
        everywhere = replicated(self.mesh)
        self.init = jax.jit(init, out_shardings=everywhere)
        self.step = jax.jit(step, donate_argnums=0, out_shardings=everywhere)
        self._stack = jax.jit(
            lambda trees: jax.tree.map(lambda *arrays: jnp.stack(arrays), *trees),
            out_shardings=everywhere,
        )
        self._choose = jax.jit(jax.vmap(_choose), donate_argnums=2)

    @property
    def row_axis(self) -> int:
        """Axis of the rows of a batch."""
        return int(self.num_runs > 1)

    def of_run(self, tree: Any, index: int) -> Any:
        """What belongs to one of the runs."""
        return tree if self.num_runs == 1 else jax.tree.map(lambda array: array[index], tree)

    def together(self, trees: Sequence[Any]) -> Any:
        """Puts together what belongs to each of the runs."""
        return trees[0] if self.num_runs == 1 else self._stack(list(trees))

    def keep_best(self, better: Sequence[bool], params: Any, best: Any) -> Any:
        """The best parameters after an evaluation, apart from those that go on changing."""
        if self.num_runs > 1:
            return self._choose(jnp.asarray(better), params, best)
        return jax.tree.map(jnp.copy, params) if better[0] else best

    def evaluate(
        self, params: Any, runs: Sequence[OpenRun], *, show_progress: bool
    ) -> list[Results]:
        """What the parameters of each run give on its validation split."""
        sources = [run.val_source for run in runs]
        if self.num_runs == 1:
            found = self.evaluator.evaluate(params, sources[0], show_progress=show_progress)
            return [found]
        return self.evaluator.evaluate_together(params, sources, show_progress=show_progress)


def _choose(better: jax.Array, params: Any, best: Any) -> Any:
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best)


def train_together(
    runs: Sequence[OpenRun], program: Program, caught: Sequence[int], *, show_progress: bool
) -> list[tuple[Numbers, Numbers]]:
    """Train runs of equal shapes to their end, as one program; each as it would have been alone.

    Returns the numbers of each run's best checkpoint, without and with NMS. A signal in `caught`
    saves and raises Interrupted.
    """
    plan, settings = runs[0].plan, runs[0].config.train
    everyone = range(len(runs))
    num_steps = settings.epochs * plan.steps_per_epoch
    seeds = np.array([run.config.seed for run in runs], np.uint32)
    state = program.init(seeds if len(runs) > 1 else seeds[0])

    for run in runs:
        claim_workdir(run.workdir, run.config)
    checkpoints = [Checkpoints(run.workdir, keep=settings.keep_checkpoints) for run in runs]
    selections = [Selection() for _ in runs]
    best = None  # parameters, once something was evaluated
    if (latest := runs[0].start_step) > 0:
        fresh = [program.of_run(state, index) for index in everyone]
        restored = []
        for index, run in enumerate(runs):
            meta = checkpoints[index].read_meta(latest)
            check_same_data(meta["data"], describe_data(run.train_source, plan), run.workdir)
            restored.append(checkpoints[index].restore(latest, fresh[index]))
            selections[index] = latest_selection(checkpoints[index], meta, latest)
        state = program.together(restored)
        best = program.together(
            [
                checkpoints[index].restore_params(selections[index].best_step, one.params)
                if selections[index].best is not None
                else one.params
                for index, one in enumerate(restored)
            ]
        )
        best = jax.tree.map(jnp.copy, best)  # the state will be overwritten
    if best is None:
        best = jax.tree.map(jnp.copy, state.params)
    step = latest
    saved_best = [selection.best_step for selection in selections]

    def describe(index: int) -> dict[str, Any]:
        return {
            "config": json.loads(config_to_json(runs[index].config)),
            "data": describe_data(runs[index].train_source, plan),
            "selection": dataclasses.asdict(selections[index]),
        }

    def evaluate_now() -> list[float]:
        """The score of each run, logged."""
        log.flush()
        scores = []
        found = program.evaluate(state.params, runs, show_progress=show_progress)
        for files, results in zip(logs, found, strict=True):
            files.evaluation(step, results.numbers, results.numbers_nms)
            scores.append(selection_score(results.numbers, settings.selection_metrics))
        return scores

    def save() -> None:
        for index in everyone:
            selection = selections[index]
            if selection.best is not None and selection.best_step != saved_best[index]:
                params = program.of_run(best, index)
                checkpoints[index].save_best(selection.best_step, params, describe(index))
                saved_best[index] = selection.best_step
            checkpoints[index].save(program.of_run(state, index), describe(index))

    def stopped(selection: Selection) -> bool:
        return selection.has_waited(settings.early_stopping_evaluations)

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
        log.say(describe_start(runs, program, state, step, num_steps))
        metric = " + ".join(settings.selection_metrics)
        if settings.evaluate_untrained and step == 0 and selections[0].step < 0:
            log.say(f"untrained: {metric} {np.mean(evaluate_now()):.2f}")
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
            due = last or (epoch_ends and epoch % settings.evaluate_every_epochs == 0)
            if due and any(selection.step != step for selection in selections):
                scores = evaluate_now()
                better = [
                    not stopped(selection) and selection.update(step, score)
                    for selection, score in zip(selections, scores, strict=True)
                ]
                if any(better):
                    best = program.keep_best(better, state.params, best)
                log.evaluated(
                    f"epoch {epoch}: {metric} {np.mean(scores):.2f} ({describe_best(selections)})",
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
    results = program.evaluate(best, runs, show_progress=show_progress)
    for run, selection, found in zip(runs, selections, results, strict=True):
        about = {"split": run.config.data.val_split, "step": selection.best_step}
        write_results(run.workdir, about, found)
    return [(found.numbers, found.numbers_nms) for found in results]


def open_batches(runs: Sequence[OpenRun], start_step: int) -> grain.DatasetIterator[Batch]:
    """The training batches of one run, or those of several stacked along a first axis."""
    if len(runs) == 1:
        return train_pipeline(runs[0].train_source, runs[0].config, start_step=start_step)
    sources, configs = [run.train_source for run in runs], [run.config for run in runs]
    return joint_train_pipeline(sources, configs, start_step=start_step)


def selection_score(numbers: Numbers, metrics: Sequence[str]) -> float:
    """The mean of some numbers. Raises ConfigError if one of them was not computed."""
    missing = [name for name in metrics if name not in numbers]
    if missing:
        raise ConfigError(
            f"config.train.selection_metrics holds {missing[0]!r}, which this data set does not "
            f"give; it gives {', '.join(numbers)}"
        )
    return float(np.mean([numbers[name] for name in metrics]))


def describe_start(
    runs: Sequence[OpenRun], program: Program, state: TrainState, step: int, num_steps: int
) -> str:
    """A line for the person who watches: what is trained, on how much."""
    params = program.of_run(state.params, 0)
    name = runs[0].config.name
    if runs[0].name:
        name += f" {', '.join(run.name for run in runs)}"
    train, val = (sum(map(len, sources)) for sources in _sources(runs))
    return (
        f"{name}: {param_count(params) / 1e6:.2f} M parameters, {train} training and {val} "
        f"validation queries, {num_steps} steps, {program.mesh.size} "
        f"{jax.devices()[0].platform} device(s)"
        + (f", continuing at step {step}" if step else "")
        + (": the first one compiles" if step < num_steps else "")
    )


def _sources(runs: Sequence[OpenRun]) -> tuple[list[SplitSource], list[SplitSource]]:
    return [run.train_source for run in runs], [run.val_source for run in runs]


def describe_best(selections: Sequence["Selection"]) -> str:
    """How the best scores so far stand, of one run or in the mean."""
    if len(selections) == 1:
        selection = selections[0]
        return "the best so far" if not selection.without_better else f"best: {selection.best:.2f}"
    bests = [selection.best for selection in selections if selection.best is not None]
    return f"mean of {len(selections)} runs; their best: {np.mean(bests):.2f}"


def latest_step(workdir: Path) -> int:
    """The step of the latest checkpoint in a work directory, 0 if there is none."""
    if not (workdir / "checkpoints").is_dir():
        return 0
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        return checkpoints.latest_step() or 0


def latest_selection(checkpoints: Checkpoints, meta: dict[str, Any], latest: int) -> "Selection":
    """The selection that a checkpoint holds, or a newer one that is beside the best parameters."""
    selection = Selection(**meta["selection"])
    best_meta = checkpoints.read_best_meta()
    if best_meta is not None and selection.step < best_meta["selection"]["step"] <= latest:
        # Evaluated only after that checkpoint was written.
        return Selection(**best_meta["selection"])
    return selection


@dataclasses.dataclass
class Selection:
    """Which checkpoint is the best, and for how many evaluations it has been."""

    step: int = -1  # of the last evaluation
    best_step: int = 0
    best: float | None = None
    without_better: int = 0  # evaluations since

    def update(self, step: int, score: float) -> bool:
        """Take a new score; returns whether it is the best."""
        self.step = step
        if self.best is None or score > self.best:
            self.best, self.best_step, self.without_better = score, step, 0
            return True
        self.without_better += 1
        return False

    def has_waited(self, patience: int | None) -> bool:
        """Whether so many evaluations in a row were not better; never, without patience."""
        return patience is not None and self.without_better >= patience


def describe_data(source: SplitSource, plan: BatchPlan) -> dict[str, int]:
    """What the position of the input pipeline, the step, refers to."""
    return {
        "examples": len(source),
        "batch_size": plan.batch_size,
        "steps_per_epoch": plan.steps_per_epoch,
    }


def check_same_data(saved: dict[str, int], now: dict[str, int], folder: Path) -> None:
    """Raises CheckpointError if a checkpoint's position means nothing in the data of now."""
    if saved != now:
        raise CheckpointError(
            f"{folder}: the checkpoint was written with other training data ({saved}, now {now}); "
            "use the same data set, or another --workdir"
        )


def on_device(
    batches: Iterable[Batch], mesh: Mesh, row_axis: int = 0, ahead: int = 2
) -> Iterator[Batch]:
    """The batches as device arrays, copied `ahead` of their use: the copies overlap the steps."""
    waiting: collections.deque[Batch] = collections.deque()
    for batch in batches:
        waiting.append(put_batch(batch, mesh, row_axis))
        if len(waiting) > ahead:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


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
