"""A trace of some steps, for TensorBoard's profile page or Perfetto."""

import sys
from pathlib import Path

import jax

from flashvtg_jax.distributed.processes import is_first
from flashvtg_jax.training.hooks.hook import Hook, Training

_SKIPPED = 3  # dispatches: the first one compiles, and the next ones fill the queue
_TRACED = 10  # dispatches


class Profile(Hook):
    """Traces ten dispatches of steps into `WORKDIR/profile`, of each process its own devices."""

    def __init__(self, workdir: Path):
        self._folder = workdir / "profile"
        self._dispatches = 0
        self._tracing = False

    def before_step(self, training: Training) -> None:
        if self._dispatches == _SKIPPED and not training.done:
            jax.block_until_ready(training.state)
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True
        elif self._tracing and (self._dispatches == _SKIPPED + _TRACED or training.done):
            jax.block_until_ready(training.state)
            self._stop()
            if is_first():
                print(f"profile of steps up to {training.step}: {self._folder}", file=sys.stderr)
        self._dispatches += 1

    def on_end(self, training: Training) -> None:
        if self._dispatches <= _SKIPPED and is_first():
            print(f"no profile: this run had fewer than {_SKIPPED + 1} steps left", file=sys.stderr)

    def close(self) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
