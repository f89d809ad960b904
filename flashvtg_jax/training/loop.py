"""The training loop: data, model, compiled step, checkpoints, evaluation, from top to bottom."""

import collections
import contextlib
import dataclasses
import json
import signal
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from flashvtg_jax.config import apply_overrides, config_to_json
from flashvtg_jax.data.batch import Batch
from flashvtg_jax.data.batch_plan import BatchPlan
from flashvtg_jax.data.pipeline import evaluation_batches, train_pipeline, train_plan
from flashvtg_jax.data.preparation import prepare_data
from flashvtg_jax.data.source import SplitSource, open_split
from flashvtg_jax.errors import CheckpointError, DataError
from flashvtg_jax.evaluation import Evaluator, Numbers, has_ground_truth, write_results
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.checkpoints import Checkpoints
from flashvtg_jax.training.checks import check_config
from flashvtg_jax.training.logs import TrainingLog
from flashvtg_jax.training.parallel import check_batch_size, make_mesh, put_batch, replicated
from flashvtg_jax.training.state import (
    feature_widths,
    init_state,
    make_optimizer,
    param_count,
)
from flashvtg_jax.training.step import make_train_step
from flashvtg_jax.training.workdir import check_workdir, claim_workdir, data_folder


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

    Leaves checkpoints, logs, and predictions and numbers of the best checkpoint in `workdir`.
    Returns the numbers of that checkpoint without and with NMS.

    Raises:
      ConfigError: the configuration does not fit the data, the devices or the work directory.
      DataError: the data set is not built, or cannot be used.
      CheckpointError: a checkpoint or log cannot be read or written.
      FlashVTGError: a loss is not finite.
      Interrupted: SIGTERM or SIGINT came; everything up to then is saved.
    """
    check_config(config)
    workdir = Path(workdir).expanduser().absolute()
    check_workdir(workdir, config)
    settings = config.train
    mesh = make_mesh()
    check_batch_size("train", settings.batch_size, mesh)
    model = build_model(config.model)
    evaluator = Evaluator(model, config, mesh)

    data_dir = data_folder(workdir, config)
    if config.data.data_dir is not None:  # so that it is found from other folders as well
        config = apply_overrides(config, {"data.data_dir": str(data_dir.absolute())})
    prepare_data(config, data_dir, show_progress=show_progress)
    train_source = open_split(data_dir, config.data.dataset, config.data.train_split)
    val_source = open_split(data_dir, config.data.dataset, config.data.val_split)
    if not has_ground_truth(val_source.annotations()):
        raise DataError(
            f"split {config.data.val_split!r} has no relevant_windows to select the best "
            "checkpoint by; set config.data.val_split to one that has"
        )

    plan = train_plan(train_source, config)
    num_steps = settings.epochs * plan.steps_per_epoch
    optimizer = make_optimizer(config.optimizer, plan.steps_per_epoch)
    init = partial(init_state, model, optimizer, config.seed, *feature_widths(config.data))
    # The state lives on every device and is donated: each step overwrites it in place.
    everywhere = replicated(mesh)
    state = jax.jit(init, out_shardings=everywhere)()
    train_step = jax.jit(
        make_train_step(model, optimizer, config.loss), donate_argnums=0, out_shardings=everywhere
    )

    # Both check that data and configuration fit, before the folder is claimed.
    train_pipeline(train_source, config).close()
    evaluation_batches(val_source, config).close()

    claim_workdir(workdir, config)
    checkpoints = Checkpoints(workdir, keep=settings.keep_checkpoints)
    selection = Selection()
    if (latest := checkpoints.latest_step()) is not None:
        meta = checkpoints.read_meta(latest)
        check_same_data(meta["data"], describe_data(train_source, plan), workdir)
        state = checkpoints.restore(latest, state)
        selection = Selection(**meta["selection"])
        best_meta = checkpoints.read_best_meta()
        if best_meta is not None and selection.step < best_meta["selection"]["step"] <= latest:
            # Evaluated only after that checkpoint was written.
            selection = Selection(**best_meta["selection"])
    step = int(state.step)

    def describe_run() -> dict[str, Any]:
        return {
            "config": json.loads(config_to_json(config)),
            "data": describe_data(train_source, plan),
            "selection": dataclasses.asdict(selection),
        }

    def evaluate_now() -> float:
        numbers, numbers_nms, *_ = evaluator.score(
            state.params, val_source, show_progress=show_progress
        )
        log.evaluation(step, numbers, numbers_nms)
        return numbers[settings.selection_metric]

    with (
        contextlib.closing(checkpoints),
        contextlib.closing(train_pipeline(train_source, config, start_step=step)) as batches,
        catch_signals() as caught,
        TrainingLog(
            workdir,
            start_step=step,
            last_evaluation=selection.step,
            num_steps=num_steps,
            steps_per_epoch=plan.steps_per_epoch,
            rows_per_step=settings.batch_size,
            interval=settings.log_every_steps,
            show_progress=show_progress,
        ) as log,
    ):
        log.say(
            f"{config.name}: {param_count(state.params) / 1e6:.2f} M parameters, "
            f"{len(train_source)} training and {len(val_source)} validation queries, "
            f"{num_steps} steps, {mesh.size} {jax.devices()[0].platform} device(s)"
            + (f", continuing at step {step}" if step else "")
            + (": the first one compiles" if step < num_steps else "")
        )
        if settings.evaluate_untrained and selection.step < step == 0:
            log.say(f"untrained: {settings.selection_metric} {evaluate_now()}")
            selection.step = 0
        device_batches = on_device(batches, mesh)
        while True:
            if caught:  # before an evaluation that is due: whoever sent the signal may not wait
                log.flush()
                checkpoints.save(state, describe_run())
                checkpoints.wait()
                raise Interrupted(caught[0], step)
            epoch, within = divmod(step, plan.steps_per_epoch)
            epoch_ends = step > 0 and within == 0
            last = step >= num_steps
            due = last or (epoch_ends and epoch % settings.evaluate_every_epochs == 0)
            if due and selection.step != step:
                log.flush()
                score = evaluate_now()
                better = selection.update(step, score)
                if better:
                    checkpoints.save_best(state, describe_run())
                note = "the best so far" if better else f"best: {selection.best}"
                log.say(f"epoch {epoch}: {settings.selection_metric} {score} ({note})")
            if due or (epoch_ends and epoch % settings.checkpoint_every_epochs == 0):
                checkpoints.save(state, describe_run())
            patience = settings.early_stopping_evaluations
            if last or (patience is not None and selection.without_better >= patience):
                break
            state, metrics = train_step(state, next(device_batches))
            step += 1
            log.add(step, metrics)
        checkpoints.wait()
        best_step = checkpoints.best_step()
        params = checkpoints.restore_params(best_step, state.params)

    # What is written from here on can be made again from the checkpoints.
    results = evaluator.score(params, val_source, show_progress=show_progress)
    about = {"split": config.data.val_split, "step": best_step}
    write_results(workdir, about, *results)
    return results[0], results[1]


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


def on_device(batches: Iterable[Batch], mesh: Mesh, ahead: int = 2) -> Iterator[Batch]:
    """The batches as device arrays, copied `ahead` of their use: the copies overlap the steps."""
    waiting: collections.deque[Batch] = collections.deque()
    for batch in batches:
        waiting.append(put_batch(batch, mesh))
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
