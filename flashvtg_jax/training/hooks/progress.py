"""What a person who watches a run sees: a bar in a terminal, lines elsewhere."""

import math
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from flashvtg_jax.system.progress import is_terminal
from flashvtg_jax.training.hooks.hook import Hook, Training

_QUIET_SECONDS = 5.0  # between lines about evaluations that are not better


class Progress(Hook):
    """Shows steps, loss and speed on stderr, and the lines that other hooks report."""

    def __init__(self, start: str, *, show: bool):
        """`start`: the first line, about the run."""
        self._start = start
        self._show = show
        self._last_report = -math.inf
        self._bar: tqdm | None = None

    def on_start(self, training: Training) -> None:
        self._bar = tqdm(
            total=training.num_steps,
            initial=training.step,
            desc="train",
            unit="step",
            disable=not self._show or not is_terminal(),
        )
        self.report(self._start)

    def before_step(self, training: Training) -> None:
        self._bar.update(training.step - self._bar.n)

    def on_metrics(
        self, training: Training, steps: Sequence[int], metrics: Mapping[str, np.ndarray]
    ) -> None:
        shown = {"loss": f"{np.mean(metrics['loss']):.3f}"}
        if training.samples_per_second is not None:
            shown["samples/s"] = f"{training.samples_per_second:.0f}"
        self._bar.set_postfix(shown)
        steps_per_epoch = training.run.plan.steps_per_epoch
        epoch, before = steps[-1] // steps_per_epoch, (steps[0] - 1) // steps_per_epoch
        if self._bar.disable and epoch > before:
            values = ", ".join(f"{name} {value}" for name, value in shown.items())
            self.report(f"epoch {epoch}/{training.num_steps // steps_per_epoch}: {values}")

    def report(self, text: str) -> None:
        """One line, above the bar."""
        if self._show:
            self._bar.write(text, file=sys.stderr)
            sys.stderr.flush()

    def report_evaluation(self, text: str, *, important: bool) -> None:
        """One line about an evaluation, unless it is unimportant and the last one was just now."""
        now = time.monotonic()
        if important or now - self._last_report > _QUIET_SECONDS:
            self._last_report = now
            self.report(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
