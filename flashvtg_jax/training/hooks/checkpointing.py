"""Saving: the state to resume from, and the best parameters."""

import dataclasses
import json

import jax

from flashvtg_jax.checkpoints.manager import Checkpoints, check_space
from flashvtg_jax.config import config_to_json
from flashvtg_jax.distributed.processes import all_or_none, from_first
from flashvtg_jax.training.hooks.evaluation import Evaluation
from flashvtg_jax.training.hooks.hook import Hook, Training
from flashvtg_jax.training.hooks.nonfinite import NonfiniteWatch
from flashvtg_jax.training.run import describe_data


class Checkpointing(Hook):
    """Saves at the end of epochs and of the run, asynchronously."""

    def __init__(self, checkpoints: Checkpoints, evaluation: Evaluation, watch: NonfiniteWatch):
        self._checkpoints = checkpoints
        self._evaluation = evaluation
        self._watch = watch
        best_step = evaluation.selection.best_step
        # Shared disks show a file to some processes later: one decides for all.
        is_saved = from_first(lambda: checkpoints.has_best(best_step))
        self._saved_best = best_step if is_saved else None

    def before_step(self, training: Training) -> None:
        if training.done or training.is_due(training.run.config.train.checkpoint_every_epochs):
            self.save(training)

    def save(self, training: Training) -> None:
        """Begin to save the present state, and the best parameters unless they are saved."""
        training.flush()  # raises if a loss was not finite: such a state is not worth saving
        run, state = training.run, training.state
        selection, best = self._evaluation.selection, self._evaluation.best
        meta = {
            "config": json.loads(config_to_json(run.config)),
            "data": describe_data(run.train_source, run.plan),
            "selection": dataclasses.asdict(selection),
            "skipped_steps": self._watch.skipped,
        }
        with all_or_none():  # both at once: each alone would count the space that the other takes
            check_space(run.workdir, sum(leaf.nbytes for leaf in jax.tree.leaves((state, best))))
        if selection.best is not None and selection.best_step != self._saved_best:
            self._checkpoints.save_best(selection.best_step, best, meta)
            self._saved_best = selection.best_step
        self._checkpoints.save(state, meta)

    def wait(self) -> None:
        """Return when everything is on disk."""
        self._checkpoints.wait()
