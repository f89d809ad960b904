"""Evaluations on the validation split, and which parameters are the best so far."""

import contextlib
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from flashvtg_jax.distributed.stop_signal import StoppedError
from flashvtg_jax.evaluation.results import Results
from flashvtg_jax.training.hooks.hook import Hook, Training
from flashvtg_jax.training.hooks.metric_buffer import MetricBuffer
from flashvtg_jax.training.hooks.progress import Progress
from flashvtg_jax.training.selection import Selection, selection_score


class Evaluation(Hook):
    """Evaluates at the end of epochs, keeps the best parameters, and stops early if asked to.

    Attributes:
      selection: which evaluation was the best.
      best: its parameters, in memory of their own; those at the start if there was none.
    """

    def __init__(
        self,
        evaluate: Callable[[Any], Results],
        progress: Progress,
        buffer: MetricBuffer,
        *,
        selection: Selection,
        best: Any,
    ):
        """Prepares the hook.

        Args:
          evaluate: parameters -> results on the validation split; may raise StoppedError.
          progress: gets a line about each evaluation.
          buffer: measures the speed, in which evaluations do not count.
          selection: so far.
          best: the parameters it names, not to be overwritten.
        """
        self._evaluate = evaluate
        self._progress = progress
        self._buffer = buffer
        self.selection = selection
        self.best = best

    def on_start(self, training: Training) -> None:
        settings = training.run.config.train
        if settings.evaluate_untrained and training.step == 0:
            with contextlib.suppress(StoppedError):  # the stop signal is read again before a step
                score = self._score(training)
                self.selection.step = 0
                self._progress.report(f"untrained: {_named(settings.selection_metrics, score)}")

    def before_step(self, training: Training) -> None:
        settings, selection = training.run.config.train, self.selection
        patience = settings.early_stopping_evaluations
        finished = training.done
        due = finished or training.is_due(settings.evaluate_every_epochs)
        # It may have been evaluated at this step before it was interrupted.
        if due and selection.step != training.step and not selection.has_waited(patience):
            score = self._score(training)
            is_best = selection.update(training.step, score)
            if is_best:
                self.best = jax.tree.map(jnp.copy, training.params)
            best = "the best so far" if is_best else f"best: {selection.best:.2f}"
            where = f"epoch {training.epoch}" if training.is_due(1) else f"step {training.step}"
            self._progress.report_evaluation(
                f"{where}: {_named(settings.selection_metrics, score)} ({best})",
                important=is_best or finished,
            )
        training.stopped |= selection.has_waited(patience)

    def _score(self, training: Training) -> float:
        """Evaluates the present parameters, passes on the metrics, returns the selection score."""
        training.flush()
        results = self._evaluate(training.params)
        score = selection_score(results.metrics, training.run.config.train.selection_metrics)
        found = MappingProxyType(results.metrics), MappingProxyType(results.metrics_nms)
        training.notify(lambda hook: hook.on_evaluation(training, *found))
        self._buffer.restart_clock()
        return score


def _named(names: tuple[str, ...], score: float) -> str:
    listing = ", ".join(names)
    return f"{listing if len(names) == 1 else f'mean of {listing}:'} {score:.2f}"
