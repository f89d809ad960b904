"""Where the runs of a group stand before their next step."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flashvtg_jax.checkpoints.init_from import begin_from
from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.training.open_runs import OpenRun, check_same_data, describe_data
from flashvtg_jax.training.program import Program
from flashvtg_jax.training.selection import Selection, latest_selection
from flashvtg_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Position:
    """Where runs that are one program stand.

    Attributes:
      step: the last one that was done, the same for all.
      state: of all runs, as `Program.view` gives it.
      best: parameters of the best step of each run, in memory of their own; those of now where
        none was evaluated.
      selections: which step that is, of each run.
      skipped: steps that were left out so far, of each run.
    """

    step: int
    state: TrainState
    best: Any
    selections: list[Selection]
    skipped: list[int]


def find_position(
    runs: Sequence[OpenRun], program: Program, checkpoints: Sequence[Checkpoints]
) -> Position:
    """The position at the runs' `start_step`: restored, or at the beginning, of `init` if given.

    Raises CheckpointError if a checkpoint cannot be read or was written with other data.
    """
    seeds = np.array([run.config.seed for run in runs], np.uint32)
    fresh = program.init(seeds if len(runs) > 1 else seeds[0])
    step = runs[0].start_step
    states, bests, selections, skipped = [], [], [], []
    for index, (run, manager) in enumerate(zip(runs, checkpoints, strict=True)):
        if step == 0:
            if run.init:
                states.append(begin_from(program.of_run(fresh, index), run.init))
                bests.append(states[-1].params)
            selections.append(Selection())
            skipped.append(0)
            continue
        meta = manager.read_meta(step)
        check_same_data(meta["data"], describe_data(run.train_source, run.plan), run.workdir)
        state = manager.restore(step, program.of_run(fresh, index))
        selection = latest_selection(manager, meta, step)
        manager.drop_best_after(selection.best_step)
        best = state.params
        if selection.best is not None:
            best = manager.restore_params(selection.best_step, state.params)
        states.append(state)
        bests.append(best)
        selections.append(selection)
        skipped.append(meta.get("skipped_steps", 0))
    state = program.together(states) if states else fresh
    best = program.params_together(bests) if states else fresh.params
    # A copy: the next step overwrites the state.
    return Position(step, state, jax.tree.map(jnp.copy, best), selections, skipped)
