"""Which checkpoint of a run is the best, and by which score."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.errors import ConfigError


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


def selection_score(metrics: Mapping[str, float], names: Sequence[str]) -> float:
    """The mean of some metrics. Raises ConfigError if one of them was not computed."""
    missing = [name for name in names if name not in metrics]
    if missing:
        raise ConfigError(
            f"config.train.selection_metrics holds {missing[0]!r}, which this data set does not "
            f"give; it gives {', '.join(metrics)}"
        )
    return float(np.mean([metrics[name] for name in names]))


def latest_selection(checkpoints: Checkpoints, meta: dict[str, Any], latest: int) -> Selection:
    """The selection at a checkpoint: its own, or a newer one beside the best parameters."""
    selection = Selection(**meta["selection"])
    best_meta = checkpoints.read_best_meta()
    if best_meta is not None and selection.step < best_meta["selection"]["step"] <= latest:
        # Evaluated only after that checkpoint was written.
        return Selection(**best_meta["selection"])
    return selection
