"""SIGTERM and SIGINT: a request to save and stop, answered by all processes at the same step."""

import itertools
import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

# JAX's preemption service is one for the whole program and numbers the calls of all users.
_calls = itertools.count(1)


class StoppedError(Exception):
    """An evaluation was left because a stop was requested."""


class Interrupted(Exception):
    """A signal ended training; the state is saved and the same command continues."""

    def __init__(self, signal_number: int, step: int, before: str = ""):
        where = f"before {before}" if before else f"at step {step}"
        super().__init__(f"{signal.Signals(signal_number).name} {where}")
        self.signal_number = signal_number
        self.step = step


class StopSignal:
    """Listens for SIGTERM and SIGINT while it is entered; a second SIGINT interrupts at once.

    With several processes, one that receives a signal informs the others, and all of them learn of
    it at the same call of `requested`. JAX's preemption service does this; it listens for SIGTERM
    from the moment the processes are connected, and for the preemption notices of TPU hosts.
    """

    def __init__(self) -> None:
        self.signal: int | None = None  # that asked to stop
        self._interrupted = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            signals = [signal.SIGTERM, signal.SIGINT]
            if jax.process_count() > 1:
                signals.remove(signal.SIGTERM)  # the service's
            self._previous = {number: signal.signal(number, self._handle) for number in signals}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        if jax.process_count() > 1:  # all processes have to agree on the step
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.signal = number

    def requested(self) -> bool:
        """Whether to stop; to be called equally often by all processes."""
        several = jax.process_count() > 1
        if several and multihost_utils.reached_preemption_sync_point(next(_calls)):
            self.signal = signal.SIGTERM
        return self.signal is not None
