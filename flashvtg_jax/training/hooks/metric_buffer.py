"""Metrics of steps, left on the devices until a logging interval is full."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from flashvtg_jax.training.hooks.hook import Hook, Training


class MetricBuffer(Hook):
    """Collects the metrics of steps, and passes them to the hooks' `on_metrics` on the host.

    It also measures the speed, without evaluations.
    """

    def __init__(self, training: Training, *, interval: int, rows_per_step: int):
        self._training = training
        self._interval = interval
        self._rows_per_step = rows_per_step
        self._pending: list[tuple[range, Mapping[str, Any]]] = []
        self._clock: float | None = None  # the first interval of a process includes compilation

    def add(self, step: int, metrics: Mapping[str, Any], count: int) -> None:
        """Takes the metrics [S, ...] of the `count` steps up to `step`; does not wait for them.

        Rows beyond the first `count` belong to no step.
        """
        first = step - count + 1
        self._pending.append((range(first, step + 1), metrics))
        if step // self._interval > (first - 1) // self._interval:
            self._flush(len(self._pending) - 1)  # the devices may be busy with the last ones

    def flush(self) -> None:
        """Passes on all metrics; raises what the hooks raise."""
        self._flush(len(self._pending))

    def before_step(self, training: Training) -> None:
        # Here, so that a hook that stops in `on_metrics` does so before the others look.
        settings = training.run.config.train
        evaluates = training.is_due(settings.evaluate_every_epochs)
        if training.done or evaluates or training.is_due(settings.checkpoint_every_epochs):
            self.flush()

    def restart_clock(self) -> None:
        """Leaves the time since the last flush out of the speed."""
        if self._clock is not None:
            self._clock = time.perf_counter()

    def _flush(self, num_dispatches: int) -> None:
        if not num_dispatches:
            return
        taken, self._pending = self._pending[:num_dispatches], self._pending[num_dispatches:]
        steps = [step for interval, _ in taken for step in interval]
        fetched = jax.device_get([metrics for _, metrics in taken])
        rows = [
            {name: array[: len(interval)] for name, array in metrics.items()}
            for (interval, _), metrics in zip(taken, fetched, strict=True)
        ]
        values = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        training, now = self._training, time.perf_counter()
        if self._clock is not None:
            training.samples_per_second = len(steps) * self._rows_per_step / (now - self._clock)
        self._clock = now
        training.notify(lambda hook: hook.on_metrics(training, steps, values))
