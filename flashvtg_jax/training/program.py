"""The compiled functions of training, for one run or for several of equal shapes at once."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from flashvtg_jax.data.batch import Batch
from flashvtg_jax.data.source import SplitSource
from flashvtg_jax.evaluation import Evaluator, Results
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.parallel import check_batch_size, make_mesh, put_batch, replicated
from flashvtg_jax.training.state import feature_widths, init_state, make_optimizer
from flashvtg_jax.training.step import make_train_step


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
        step = make_train_step(model, optimizer, config.loss)
        if num_runs > 1:
            init, step = jax.vmap(init), jax.vmap(step)
        # The state lives on every device and is donated: each step overwrites it in place.
        everywhere = replicated(self.mesh)
        self.init = jax.jit(init, out_shardings=everywhere)
        self.step = jax.jit(step, donate_argnums=0, out_shardings=everywhere)
        self._stack = jax.jit(
            lambda trees: jax.tree.map(lambda *arrays: jnp.stack(arrays), *trees),
            out_shardings=everywhere,
        )
        self._choose = jax.jit(jax.vmap(_choose), donate_argnums=2)

    @property
    def row_axis(self) -> int:
        """Axis of the rows of a batch."""
        return int(self.num_runs > 1)

    def of_run(self, tree: Any, index: int) -> Any:
        """What belongs to one of the runs."""
        return tree if self.num_runs == 1 else jax.tree.map(lambda array: array[index], tree)

    def together(self, trees: Sequence[Any]) -> Any:
        """Puts together what belongs to each of the runs."""
        return trees[0] if self.num_runs == 1 else self._stack(list(trees))

    def keep_best(self, better: Sequence[bool], params: Any, best: Any) -> Any:
        """The best parameters after an evaluation, apart from those that go on changing."""
        if not any(better):
            return best
        if self.num_runs > 1:
            return self._choose(jnp.asarray(better), params, best)
        return jax.tree.map(jnp.copy, params)

    def evaluate(
        self, params: Any, sources: Sequence[SplitSource], *, show_progress: bool
    ) -> list[Results]:
        """What the parameters of each run give on its split."""
        if self.num_runs == 1:
            found = self.evaluator.evaluate(params, sources[0], show_progress=show_progress)
            return [found]
        return self.evaluator.evaluate_together(params, sources, show_progress=show_progress)


def _choose(better: jax.Array, params: Any, best: Any) -> Any:
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best)


def on_device(
    batches: Iterable[Batch], mesh: Mesh, row_axis: int = 0, ahead: int = 2
) -> Iterator[Batch]:
    """The batches as device arrays, copied `ahead` of their use: the copies overlap the steps."""
    waiting: collections.deque[Batch] = collections.deque()
    for batch in batches:
        waiting.append(put_batch(batch, mesh, row_axis))
        if len(waiting) > ahead:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
