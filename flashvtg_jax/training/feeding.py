"""Where training batches come from: sent by the host, or gathered on the devices."""

import collections
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import grain
import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from flashvtg_jax.data.batch import Batch
from flashvtg_jax.data.device_cache import DeviceCache, Draw, is_worth_caching
from flashvtg_jax.data.pipeline import prefetched
from flashvtg_jax.data.source import SplitSource
from flashvtg_jax.distributed.processes import all_or_none
from flashvtg_jax.distributed.sharding import replicate
from flashvtg_jax.training.run import OpenRun
from flashvtg_jax.training.state import TrainState
from flashvtg_jax.training.step import Metrics, TrainStep

_DISPATCH_SECONDS = 0.25  # that a dispatch of several steps should take: signals wait for its end
_MOST_STEPS = 32  # of a dispatch
_IN_FLIGHT = 2  # dispatches: the device has work while the host prepares more


class Feed(Protocol):
    """Does the next steps of a run; to be closed."""

    def advance(self, state: TrainState, step: int, limit: int) -> tuple[TrainState, Metrics, int]:
        """Dispatches at least one of the next `limit` steps, and does not wait for them.

        Returns the state after them, the metrics [S, ...] of each, of which the first `count` are
        real, and `count`.
        """

    def close(self) -> None:
        """Stops the threads that prepare batches."""


class Streamed:
    """Each batch is read, padded and sent by this process while earlier ones are computed."""

    def __init__(
        self,
        batches: grain.DatasetIterator[Batch],
        step: TrainStep,
        put: Callable[[Batch], Batch],
    ):
        """Starts reading.

        Args:
          batches: this process's part of each, from the first step to do on.
          step: compiled; its metrics have an axis of steps in front.
          put: copies a batch to the devices, asynchronously.
        """
        self._batches = batches
        self._step = step
        self._on_device = on_device(batches, put)
        self._in_flight = _InFlight()

    def advance(self, state: TrainState, step: int, limit: int) -> tuple[TrainState, Metrics, int]:
        self._in_flight.wait()
        state, metrics = self._step(state, next(self._on_device))
        self._in_flight.add(metrics["loss"], 1)
        return state, metrics, 1

    def close(self) -> None:
        self._batches.close()


class Cached:
    """Batches are gathered on the devices, several steps a dispatch; the host draws clips ahead."""

    def __init__(
        self, run: OpenRun, cache: DeviceCache, steps: Callable[..., Any], *, on_cpu: bool
    ):
        """Starts drawing.

        Args:
          run: from its `start_step` on.
          cache: its training split.
          steps: (state, cache, draws [S, ...], clips, count) -> state and metrics [S, ...] after
            the first `count` of the drawn steps.
          on_cpu: whether the devices are CPUs, where several steps a dispatch gain nothing.
        """
        self._run, self._cache, self._steps = run, cache, steps
        self._steps_asked = run.config.train.steps_per_dispatch
        # Processes measure different times, and have to dispatch the same steps.
        if self._steps_asked is None and (jax.process_count() > 1 or on_cpu):
            self._steps_asked = 1
        self._draws = prefetched(
            self._draw,
            run.num_steps,
            run.config,
            start_step=run.start_step,
            ahead=2 * _MOST_STEPS,
        )
        self._in_flight = _InFlight()

    def advance(self, state: TrainState, step: int, limit: int) -> tuple[TrainState, Metrics, int]:
        seconds = self._in_flight.wait()
        capacity = self._steps_asked or _MOST_STEPS
        wanted = self._steps_asked
        if wanted is None:
            wanted = 1 if seconds is None else max(1, int(_DISPATCH_SECONDS / max(seconds, 1e-6)))
        clips = self._clips(step)
        draws = []
        while len(draws) < min(wanted, limit, capacity) and self._clips(step + len(draws)) == clips:
            draws.append(next(self._draws))
        count = len(draws)
        draws += [draws[0]] * (capacity - count)  # of one shape, whatever the count
        stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *draws)
        state, metrics = self._steps(state, self._cache, stacked, clips, count)
        self._in_flight.add(metrics["loss"], count)
        return state, metrics, count

    def close(self) -> None:
        self._draws.close()

    def _clips(self, step: int) -> int:
        """The padded length of the batch at a step."""
        return self._run.plan.batch(step)[1].length

    def _draw(self, step: int) -> Draw:
        """This process's part of the batch at a step."""
        run = self._run
        epoch, planned = run.plan.batch(step)
        examples = planned.share(jax.process_index(), jax.process_count())
        return self._cache.draw(run.train_source, examples, run.config.seed, epoch)


class _InFlight:
    """Dispatches that have not been seen to finish, and how long steps take."""

    def __init__(self) -> None:
        self._waiting: collections.deque[tuple[jax.Array, int]] = collections.deque()
        self._finished: float | None = None  # when the last one was seen to finish
        self._seconds: float | None = None

    def add(self, result: jax.Array, count: int) -> None:
        """Takes a result of a dispatch of so many steps."""
        self._waiting.append((result, count))

    def wait(self) -> float | None:
        """Waits until few dispatches are left; returns the seconds of a step, once it is known.

        Only dispatches that were really waited for are measured: when one has finished before,
        during an evaluation perhaps, is unknown.
        """
        while len(self._waiting) >= _IN_FLIGHT:
            result, count = self._waiting.popleft()
            was_ready = result.is_ready()
            jax.block_until_ready(result)
            now = time.perf_counter()
            if self._finished is not None and not was_ready:
                self._seconds = (now - self._finished) / count
            self._finished = now
        return self._seconds


class SplitCaches:
    """The splits that are kept on the devices of a mesh, each read when it is first asked for."""

    def __init__(self, *, show_progress: bool):
        self._show = show_progress
        self._known: dict[str, DeviceCache | None] = {}

    def get(
        self, source: SplitSource, config: ml_collections.ConfigDict, mesh: Mesh
    ) -> DeviceCache | None:
        """The whole split of a source; None where its batches are to be sent by the host.

        Raises ConfigError if it must be kept on the devices and does not fit there, DataError if
        it cannot be read.
        """
        if config.parallel.mode == "pmap":
            return None
        # Each of several processes would read all of it; by default they read their share.
        if jax.process_count() > 1 and config.data.cache_on_device is None:
            return None
        if source.name not in self._known:
            with all_or_none():
                here = jax.process_index()
                devices = [d for d in mesh.devices.flat if d.process_index == here]
                cache = None
                if is_worth_caching(source, config, devices):
                    place = partial(replicate, mesh=mesh)
                    cache = DeviceCache(source, config, place, show_progress=self._show)
                self._known[source.name] = cache
        return self._known[source.name]


def on_device(
    batches: Iterable[Batch], put: Callable[[Batch], Batch], ahead: int = 2
) -> Iterator[Batch]:
    """The batches as device arrays, copied `ahead` of their use: the copies overlap the steps."""
    waiting: collections.deque[Batch] = collections.deque()
    for batch in batches:
        waiting.append(put(batch))
        if len(waiting) > ahead:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
