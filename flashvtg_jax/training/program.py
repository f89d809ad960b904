"""The compiled functions of training, for one run or for several of equal shapes at once."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from flashvtg_jax.data.batch import Batch
from flashvtg_jax.data.device_cache import CachedSplit, DeviceCache, Draw, TakeBatch
from flashvtg_jax.data.source import SplitSource
from flashvtg_jax.distributed.pmap import PerDevice
from flashvtg_jax.distributed.sharding import (
    AXIS,
    check_batch_size,
    make_mesh,
    put_batch,
    replicated,
    split_rows,
    state_shardings,
)
from flashvtg_jax.evaluation.evaluator import Evaluator, Results
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.state import TrainState, feature_widths, init_state, make_optimizer
from flashvtg_jax.training.step import Metrics, make_train_step, one_step, repeat_step


class Program:
    """The compiled functions that groups of equally many runs share.

    Everything that changes has the runs along a first axis, unless there is one run only.
    """

    def __init__(self, config: ml_collections.ConfigDict, num_runs: int, steps_per_epoch: int):
        self.num_runs = num_runs
        self.mesh = make_mesh(config.train.batch_size)
        check_batch_size("train", config.train.batch_size, self.mesh)
        model = build_model(config.model)
        optimizer = make_optimizer(config.optimizer, steps_per_epoch)
        self.evaluator = Evaluator(model, config, self.mesh)
        init = partial(init_state, model, optimizer, *feature_widths(config.data))
        if num_runs > 1:
            init = jax.vmap(init)
        everywhere = replicated(self.mesh)
        self._gather = jax.jit(lambda tree: tree, out_shardings=everywhere)
        self._split = config.parallel.shard_state
        shapes = jax.eval_shape(init, np.zeros((num_runs,) if num_runs > 1 else (), np.uint32))
        places = state_shardings(shapes, self.mesh, shard_state=self._split)
        self.init = jax.jit(init, out_shardings=places)
        self._stack = jax.jit(_stack, out_shardings=places)
        self._stack_params = jax.jit(_stack, out_shardings=places.params)
        self._choose = jax.jit(jax.vmap(_choose), donate_argnums=2, out_shardings=places.params)

        make_step = partial(
            make_train_step,
            model,
            optimizer,
            config.loss,
            data_config=config.data,
            skip_nonfinite=config.train.on_nan == "skip",
        )
        self._per_device = None
        if config.parallel.mode == "pmap":
            self._per_device = PerDevice(one_step(make_step(axis_name=AXIS)), self.mesh)
            self.step = self._per_device.step
            return
        step = make_step(shardings=places if self._split else None)
        if num_runs > 1:
            step = jax.vmap(step)
        # The state stays on the devices and is donated: each step overwrites it in place.
        compiled = partial(jax.jit, donate_argnums=0, out_shardings=(places, everywhere))
        self.step = compiled(one_step(step))

        def steps(
            state: TrainState,
            split: CachedSplit,
            draws: Draw,
            count: jax.Array,
            take: TakeBatch,
        ) -> tuple[TrainState, Metrics]:
            def batch_of(split: CachedSplit, draw: Draw) -> Batch:
                batch = (jax.vmap(take, in_axes=(None, 0)) if num_runs > 1 else take)(split, draw)
                # Each device gathers its own rows.
                rows = split_rows(self.mesh, int(num_runs > 1))
                return jax.lax.with_sharding_constraint(batch, rows)

            return repeat_step(step, batch_of, state, split, draws, count)

        self._steps = compiled(steps, static_argnums=4)

    def spread(self, state: TrainState) -> TrainState:
        """A state as it is saved -> as `step` takes it."""
        return state if self._per_device is None else self._per_device.spread(state)

    def view(self, state: TrainState) -> TrainState:
        """A state as `step` gives it -> as it is saved."""
        return state if self._per_device is None else self._per_device.view(state)

    @property
    def can_cache(self) -> bool:
        """Whether it can take its batches from data on the devices."""
        return self._per_device is None

    def steps(
        self, state: TrainState, cache: DeviceCache, draws: Draw, clips: int, count: int
    ) -> tuple[TrainState, Metrics]:
        """Does the first `count` of the drawn steps [S, ...], on batches of so many clips.

        Returns the state after them and the metrics [S, ...] of each.
        """
        draws = put_batch(draws, self.mesh, 1 + int(self.num_runs > 1))
        return self._steps(state, cache.split, draws, np.int32(count), cache.taking(clips))

    def put(self, batch: Batch) -> Batch:
        """This process's part of a batch -> arrays on the devices; the copy is asynchronous."""
        if self._per_device is not None:
            return self._per_device.put(batch)
        return put_batch(batch, self.mesh, int(self.num_runs > 1))

    def of_run(self, tree: Any, index: int) -> Any:
        """What belongs to one of the runs."""
        return tree if self.num_runs == 1 else jax.tree.map(lambda array: array[index], tree)

    def together(self, states: Sequence[TrainState]) -> TrainState:
        """Puts together the states of each of the runs."""
        return states[0] if self.num_runs == 1 else self._stack(list(states))

    def params_together(self, params: Sequence[Any]) -> Any:
        """Puts together the parameters of each of the runs."""
        return params[0] if self.num_runs == 1 else self._stack_params(list(params))

    def keep_best(self, better: Sequence[bool], params: Any, best: Any) -> Any:
        """The best parameters after an evaluation, apart from those that go on changing."""
        if not any(better):
            return best
        if self.num_runs > 1:
            return self._choose(jnp.asarray(better), params, best)
        return jax.tree.map(jnp.copy, params)

    def evaluate(
        self,
        params: Any,
        sources: Sequence[SplitSource],
        *,
        cache: DeviceCache | None = None,
        show_progress: bool,
        stop: Callable[[], bool] | None = None,
    ) -> list[Results]:
        """What the parameters of each run give on its split, which may be kept on the devices.

        Raises StoppedError as soon as `stop` says so.
        """
        if self._split:
            params = self._gather(params)
        watch = {"cache": cache, "show_progress": show_progress, "stop": stop}
        if self.num_runs == 1:
            return [self.evaluator.evaluate(params, sources[0], **watch)]
        return self.evaluator.evaluate_together(params, sources, **watch)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *trees)


def _choose(better: jax.Array, params: Any, best: Any) -> Any:
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best)
