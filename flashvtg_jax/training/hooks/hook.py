"""The protocol between the trainer and what happens around its steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flashvtg_jax.distributed.processes import all_or_none, from_first

if TYPE_CHECKING:
    from flashvtg_jax.training.run import OpenRun
    from flashvtg_jax.training.state import TrainState


class Hook:
    """Something that happens around the steps of a run; every method may be overridden.

    A user's hooks are called after the logs are written and before the run is evaluated and saved.
    One object serves all runs of a command, one after another: acquire in `on_start` what `close`
    releases.

    With several processes each of them calls its hooks alike: what waits for other processes must
    do so in all of them, and files are written by the lead host alone. If a method other than
    `before_step` raises in one process, all of them end.

        class PrintLoss(fv.training.Hook):
            def on_metrics(self, training, steps, metrics):
                print(steps[-1], metrics["loss"].mean())

        fv.train(config, workdir, hooks=[PrintLoss()])
    """

    def on_start(self, training: Training) -> None:
        """Called before the first step of this process."""

    def before_step(self, training: Training) -> None:
        """Called before each dispatch of steps, and after the last one.

        Steps that were dispatched may still be running on the devices. With several processes it
        must not fail, or set `training.stopped`, in some of them only.
        """

    def on_metrics(
        self, training: Training, steps: Sequence[int], metrics: Mapping[str, np.ndarray]
    ) -> None:
        """Called with the metrics of steps, on the host: all steps, in order.

        It is called once per logging interval, and before the run is evaluated or saved.
        `training.step` may be ahead of these steps.

        Args:
          training: the run.
          steps: consecutive steps, counted from 1.
          metrics: "loss", its terms and "gradient_norm", an array [steps] of each; "skipped" with
            `config.train.on_nan="skip"`.
        """

    def on_evaluation(
        self, training: Training, metrics: Mapping[str, float], metrics_nms: Mapping[str, float]
    ) -> None:
        """Called after each evaluation on the validation split, that of untrained parameters too.

        Args:
          training: the run.
          metrics: of the parameters at `training.step`, without non-maximum suppression.
          metrics_nms: with it; empty without moments.
        """

    def on_end(self, training: Training) -> None:
        """Called after the results of the best checkpoint were written."""

    def close(self) -> None:
        """Called however the run ends, even if `on_start` was not reached."""


@dataclasses.dataclass
class Training:
    """Where a run stands, as its hooks see it.

    Attributes:
      run: its configuration, work directory and data.
      step: steps that were dispatched, since the run began.
      device_state: the state after these steps, as the compiled step takes it; see `state`.
      unstack: turns that into a replicated state (under pmap each device has its own copy).
      hooks: of this run.
      flush: passes metrics that are still on the devices to `on_metrics`; not to be called there.
      samples_per_second: in the last logging interval, once known.
      stopped: set by a hook to end training early: the parameters are then evaluated and saved.
        The same command resumes the run. With several processes the lead host decides.
    """

    run: OpenRun
    step: int
    device_state: TrainState
    unstack: Callable[[TrainState], TrainState]
    hooks: Sequence[Hook] = ()
    flush: Callable[[], None] = lambda: None
    samples_per_second: float | None = None
    stopped: bool = False

    @property
    def state(self) -> TrainState:
        """The state after `step` steps, on the devices.

        The next dispatch overwrites it: copy what is to be kept. With `config.parallel.shard_state`
        each device holds a part of it; under pmap it is copied at each access.
        """
        return self.unstack(self.device_state)

    @property
    def num_steps(self) -> int:
        """Steps in all epochs."""
        return self.run.num_steps

    @property
    def params(self) -> Any:
        """The parameters of `state`."""
        return self.state.params

    @property
    def epoch(self) -> int:
        """Epochs that are complete."""
        return self.step // self.run.plan.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether there are no more steps to do."""
        return self.stopped or self.step >= self.num_steps

    def is_due(self, every_epochs: int) -> bool:
        """Whether an epoch that is a multiple of `every_epochs` has just ended."""
        epoch, within = divmod(self.step, self.run.plan.steps_per_epoch)
        return self.step > 0 and within == 0 and epoch % every_epochs == 0

    def release(self) -> None:
        """Gives up the state and the hooks, whose references to each other would keep it alive."""
        self.device_state, self.hooks = None, ()

    def notify(self, call: Callable[[Hook], None]) -> None:
        """Calls all hooks in their order; if one fails in one process, all processes fail."""
        with all_or_none():
            for hook in self.hooks:
                call(hook)
        self.stopped = from_first(lambda: self.stopped)
