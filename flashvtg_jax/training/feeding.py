"""Where the batches of training come from: sent by the host, or taken from data on the devices."""

import collections
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

import grain
import jax
import ml_collections
import numpy as np

from flashvtg_jax.data.batch import Batch
from flashvtg_jax.data.device_cache import DeviceCache, Draw, is_worth_caching
from flashvtg_jax.data.pipeline import joint_train_pipeline, prefetched, train_pipeline
from flashvtg_jax.data.source import SplitSource
from flashvtg_jax.distributed.processes import all_or_none
from flashvtg_jax.distributed.sharding import put_everywhere
from flashvtg_jax.training.open_runs import OpenRun
from flashvtg_jax.training.program import Program
from flashvtg_jax.training.state import TrainState
from flashvtg_jax.training.step import Metrics

_DISPATCH_SECONDS = 0.25  # that a dispatch of several steps is to take: signals are heard between
_MOST_STEPS = 32  # of a dispatch
_IN_FLIGHT = 2  # dispatches: the device has work while the host prepares more


class Feed(Protocol):
    """Does the next steps of a group of runs; to be closed."""

    def advance(self, state: TrainState, step: int, limit: int) -> tuple[TrainState, Metrics, int]:
        """Starts at least one of the next `limit` steps, and does not wait for them.

        Returns the state after them, the metrics [S, ...] of each, of which the first `count` are
        real, and `count`.
        """

    def close(self) -> None:
        """Ends what prepares batches ahead."""


def open_feed(
    runs: Sequence[OpenRun], program: Program, cache: DeviceCache | None, start_step: int
) -> Feed:
    """The batches of runs that are one program, from a step on."""
    if cache is None:
        return Streamed(runs, program, start_step)
    return Cached(runs, program, cache, start_step)


class Streamed:
    """Each batch is read, padded and sent by this process while earlier ones are computed."""

    def __init__(self, runs: Sequence[OpenRun], program: Program, start_step: int):
        self._program = program
        self.batches = open_batches(runs, start_step)
        self._on_device = on_device(self.batches, program.put)
        self._started = _Started()

    def advance(self, state: TrainState, step: int, limit: int) -> tuple[TrainState, Metrics, int]:
        self._started.wait()
        state, metrics = self._program.step(state, next(self._on_device))
        self._started.add(metrics["loss"], 1)
        return state, metrics, 1

    def close(self) -> None:
        self.batches.close()


class Cached:
    """Batches are gathered on the devices, several steps a dispatch; the host draws clips ahead."""

    def __init__(
        self, runs: Sequence[OpenRun], program: Program, cache: DeviceCache, start_step: int
    ):
        self._runs, self._program, self._cache = runs, program, cache
        settings, plan = runs[0].config.train, runs[0].plan
        self._asked_for = settings.steps_per_dispatch
        # Processes see different times, and are to do the same; and nothing is gained on a CPU.
        on_cpu = program.mesh.devices.flat[0].platform == "cpu"
        if self._asked_for is None and (jax.process_count() > 1 or on_cpu):
            self._asked_for = 1
        num_steps = settings.epochs * plan.steps_per_epoch
        self._draws = prefetched(
            self._draw, num_steps, runs[0].config, start_step=start_step, ahead=2 * _MOST_STEPS
        )
        self._started = _Started()

    def advance(self, state: TrainState, step: int, limit: int) -> tuple[TrainState, Metrics, int]:
        seconds = self._started.wait()
        capacity = self._asked_for or _MOST_STEPS
        wanted = self._asked_for
        if wanted is None:
            wanted = 1 if seconds is None else max(1, int(_DISPATCH_SECONDS / max(seconds, 1e-6)))
        clips = self._clips(step)
        draws = []
        while len(draws) < min(wanted, limit, capacity) and self._clips(step + len(draws)) == clips:
            draws.append(next(self._draws))
        count = len(draws)
        draws += [draws[0]] * (capacity - count)  # of one shape, whatever the count
        stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *draws)
        state, metrics = self._program.steps(state, self._cache, stacked, clips, count)
        self._started.add(metrics["loss"], count)
        return state, metrics, count

    def close(self) -> None:
        self._draws.close()

    def _clips(self, step: int) -> int:
        """The length of all runs' batches at a step."""
        return max(run.plan.batch(step)[1].length for run in self._runs)

    def _draw(self, step: int) -> Draw:
        """The batches of a step [B, ...], of several runs stacked [E, B, ...]."""
        draws = [self._draw_of(run, step) for run in self._runs]
        return draws[0] if len(draws) == 1 else jax.tree.map(lambda *a: np.stack(a), *draws)

    def _draw_of(self, run: OpenRun, step: int) -> Draw:
        epoch, planned = run.plan.batch(step)
        examples = planned.share(jax.process_index(), jax.process_count())
        return self._cache.draw(run.train_source, examples, run.config.seed, epoch)


class _Started:
    """The dispatches that the device has not been seen to finish, and how long steps take."""

    def __init__(self) -> None:
        self._waiting: collections.deque[tuple[jax.Array, int]] = collections.deque()
        self._finished: float | None = None  # when the last one was seen to be
        self._seconds: float | None = None

    def add(self, result: jax.Array, count: int) -> None:
        """Takes a result of a dispatch of so many steps."""
        self._waiting.append((result, count))

    def wait(self) -> float | None:
        """Waits until few dispatches are left; returns the seconds of a step, once it is known.

        Only dispatches that are really waited for tell them: one that was finished before, during
        an evaluation perhaps, did so nobody knows when.
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


class Caches:
    """The splits that are kept on the devices of a mesh, each read when it is first asked for."""

    def __init__(self, *, show_progress: bool):
        self._show = show_progress
        self._known: dict[str, DeviceCache | None] = {}

    def get(
        self, source: SplitSource, config: ml_collections.ConfigDict, program: Program
    ) -> DeviceCache | None:
        """The split that a source is of; None where its batches are to be sent by the host.

        Raises ConfigError if it must be kept on the devices and does not fit there, DataError if
        it cannot be read.
        """
        if not program.can_cache:
            return None
        # Of several processes each would read all of it; unless told to, they read their share.
        if jax.process_count() > 1 and config.data.cache_on_device is None:
            return None
        if source.name not in self._known:
            with all_or_none():
                here = jax.process_index()
                devices = [d for d in program.mesh.devices.flat if d.process_index == here]
                cache = None
                if is_worth_caching(source, config, devices):
                    place = partial(put_everywhere, mesh=program.mesh)
                    cache = DeviceCache(source, config, place, show_progress=self._show)
                self._known[source.name] = cache
        return self._known[source.name]


def open_batches(runs: Sequence[OpenRun], start_step: int) -> grain.DatasetIterator[Batch]:
    """This process's part of the training batches of one run, or of several stacked."""
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    if len(runs) == 1:
        source, config = runs[0].train_source, runs[0].config
        return train_pipeline(source, config, start_step=start_step, **share)
    sources, configs = [run.train_source for run in runs], [run.config for run in runs]
    return joint_train_pipeline(sources, configs, start_step=start_step, **share)


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
