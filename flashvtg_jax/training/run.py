"""One run: its configuration, its work directory, its data."""

import dataclasses
from pathlib import Path

import ml_collections
import numpy as np

from flashvtg_jax.data.batch_plan import BatchPlan
from flashvtg_jax.data.source import SplitSource
from flashvtg_jax.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class Run:
    """One model to train.

    Attributes:
      name: folder below the work directory, "BK/seed2024"; "" if the work directory is the run's.
      config: of this run: one seed, and one domain or an undivided data set.
      workdir: of this run.
    """

    name: str
    config: ml_collections.ConfigDict
    workdir: Path


@dataclasses.dataclass(frozen=True)
class OpenRun(Run):
    """A run with its data.

    Attributes:
      train_source: the split, or the domain of it, to learn from.
      val_source: to select the best checkpoint on.
      plan: the batches of each epoch.
      start_step: of the checkpoint to resume from; 0 without one.
      init: parameters of another run to begin with, by path; {}: none.
    """

    train_source: SplitSource
    val_source: SplitSource
    plan: BatchPlan
    start_step: int = 0
    init: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Steps in all epochs."""
        return self.config.train.epochs * self.plan.steps_per_epoch


def describe_data(source: SplitSource, plan: BatchPlan) -> dict[str, int]:
    """What the position of the input pipeline, the step, refers to."""
    return {
        "examples": len(source),
        "batch_size": plan.batch_size,
        "steps_per_epoch": plan.steps_per_epoch,
    }


def check_same_data(saved: dict[str, int], run: OpenRun) -> None:
    """Raises CheckpointError if a checkpoint's position means nothing in a run's present data."""
    now = describe_data(run.train_source, run.plan)
    if saved != now:
        raise CheckpointError(
            f"{run.workdir}: the checkpoint was written with other training data ({saved}, now "
            f"{now}); use the same data set, or another --workdir"
        )
