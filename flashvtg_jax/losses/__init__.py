"""The training objective: pure functions from the model's output and the targets to scalars."""

from flashvtg_jax.losses.objective import objective
from flashvtg_jax.losses.targets import Targets

__all__ = ["Targets", "objective"]
