"""The protocol between the trainer and what happens around its steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from flashvtg_jax.training.run import OpenRun
    from flashvtg_jax.training.state import TrainState


class Hook:
    """Something that happens around the steps of a run; every method may be overridden.

    The trainer calls the hooks of a run in their order. With several processes each of them calls
    its hooks alike: what waits for other processes must do so in all of them, and files are written
    by the lead host alone.

        class PrintLoss(fv.training.Hook):
            def on_metrics(self, training, steps, metrics):
                print(steps[-1], metrics["loss"].mean())

        fv.train(config, workdir, hooks=[PrintLoss()])
    """

    def on_start(self, training: Training) -> None:
        """Called once, before the first step of this process."""

    def before_step(self, training: Training) -> None:
        """Called before each dispatch of steps, and once more after the last one.

        `training.state` may still be being computed. To end training here, set `training.stopped`:
        the parameters are then evaluated and saved.
        """

    def on_metrics(
        self, training: Training, steps: Sequence[int], metrics: Mapping[str, np.ndarray]
    ) -> None:
        """Called once per logging interval with the metrics of its steps, on the host.

        Args:
          training: the run.
          steps: numbers of consecutive steps, counted from 1.
          metrics: "loss", its terms and "gradient_norm", an array [steps] of each.
        """

    def on_evaluation(
        self, training: Training, metrics: Mapping[str, float], metrics_nms: Mapping[str, float]
    ) -> None:
        """Called after each evaluation on the validation split.

        Args:
          training: the run.
          metrics: of its present parameters, without non-maximum suppression.
          metrics_nms: with it; empty without moments.
        """

    def on_end(self, training: Training) -> None:
        """Called once, after the results of the best checkpoint were written."""

    def close(self) -> None:
        """Called once, however the run ends."""


@dataclasses.dataclass
class Training:
    """Where a run stands, as its hooks see it.

    Attributes:
      run: its configuration, work directory and data.
      num_steps: in all epochs.
      step: steps that were dispatched, since the run began.
      dispatched: the state after these steps, as the compiled step takes it; see `state`.
      unstack: turns that into a replicated state (under pmap each device has its own copy).
      hooks: of this run.
      flush: copies metrics that are still on the devices and passes them to `on_metrics`.
      samples_per_second: in the last logging interval, once known.
      stopped: set by a hook to end training before `num_steps`.
    """

    run: OpenRun
    num_steps: int
    step: int
    dispatched: TrainState
    unstack: Callable[[TrainState], TrainState]
    hooks: Sequence[Hook] = ()
    flush: Callable[[], None] = lambda: None
    samples_per_second: float | None = None
    stopped: bool = False

    @property
    def state(self) -> TrainState:
        """The state after `step` steps, on the devices.

        The next dispatch overwrites it: copy what is to be kept.
        """
        return self.unstack(self.dispatched)

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
