"""A stop that was requested by a signal: save and leave."""

from flashvtg_jax.distributed.stop_signal import Interrupted, StopSignal
from flashvtg_jax.training.hooks.checkpointing import Checkpointing
from flashvtg_jax.training.hooks.hook import Hook, Training


class Preemption(Hook):
    """Saves and raises Interrupted before the next step after SIGTERM or SIGINT.

    It runs before an evaluation, which could take longer than the sender of the signal waits.
    """

    def __init__(self, stop: StopSignal, checkpointing: Checkpointing):
        self._stop = stop
        self._checkpointing = checkpointing

    def before_step(self, training: Training) -> None:
        if self._stop.requested():
            self._checkpointing.save(training)
            self._checkpointing.wait()
            raise Interrupted(self._stop.signal, training.step)
