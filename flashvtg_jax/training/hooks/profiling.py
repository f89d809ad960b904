"""A trace of some steps, for TensorBoard's profile page or Perfetto."""

import sys

import jax

from flashvtg_jax.distributed.processes import is_first
from flashvtg_jax.training.hooks.hook import Hook, Training

_SKIPPED = 3  # dispatches: the first one compiles, and the next ones fill the queue
_TRACED = 10  # dispatches


class Profile(Hook):
    """Traces ten dispatches of steps into `WORKDIR/profile`, with what happens between them.

    Each process traces its own devices.
    """

    def __init__(self) -> None:
        self._first_step: int | None = None  # of the trace that is being taken
        self._done = False

    def on_start(self, training: Training) -> None:
        self._dispatches, self._first_step, self._done = 0, None, False

    def before_step(self, training: Training) -> None:
        if self._dispatches == _SKIPPED and not training.done:
            jax.block_until_ready(training.device_state)
            jax.profiler.start_trace(str(training.run.workdir / "profile"))
            self._first_step = training.step + 1
        elif self._dispatches == _SKIPPED + _TRACED or training.done:
            self._finish(training)
        self._dispatches += 1

    def on_end(self, training: Training) -> None:
        self._finish(training)
        if not self._done and is_first():
            print(f"no profile: it begins after {_SKIPPED} dispatches of steps", file=sys.stderr)

    def close(self) -> None:
        if self._first_step is not None:
            self._first_step = None
            jax.profiler.stop_trace()

    def _finish(self, training: Training) -> None:
        if self._first_step is None:
            return
        jax.block_until_ready(training.device_state)
        if is_first():
            folder = training.run.workdir / "profile"
            print(
                f"profile of steps {self._first_step} to {training.step}: {folder}", file=sys.stderr
            )
        self.close()
        self._done = True
