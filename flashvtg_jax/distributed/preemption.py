"""SIGTERM and SIGINT: a request to save and stop, heard between two steps, by all processes."""

import itertools
import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

# JAX's service, one for the whole program, compares calls by number: they are counted through it.
_calls = itertools.count(1)


class StoppedError(Exception):
    """An evaluation was left because a stop was requested."""


class Stopping:
    """Listens for SIGTERM and SIGINT while it is entered; a second SIGINT interrupts at once.

    Of several processes, one that is told to stop tells the others, and all of them hear it at the
    same call of `requested`: that takes JAX's preemption service, which listens for SIGTERM since
    the processes were connected, and for the notices of a TPU's host.
    """

    def __init__(self) -> None:
        self.signal: int | None = None  # that asked to stop
        self._interrupted = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
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
        if jax.process_count() > 1:  # all are to agree when
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.signal = number

    def requested(self) -> bool:
        """Whether to stop; to be called equally often by all processes."""
        several = jax.process_count() > 1
        if several and multihost_utils.reached_preemption_sync_point(next(_calls)):
            self.signal = signal.SIGTERM
        return self.signal is not None
