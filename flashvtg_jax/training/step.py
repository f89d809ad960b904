"""Training steps, one or several in a row: pure functions, not compiled yet."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from flashvtg_jax.data.batch import Batch, stream_widths
from flashvtg_jax.data.perturbation import augment_videos, row_keys
from flashvtg_jax.distributed.sharding import replicated
from flashvtg_jax.losses import objective
from flashvtg_jax.models.flashvtg import FlashVTG
from flashvtg_jax.training.state import TrainState

Metrics = dict[str, chex.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]

# Separates the keys of augmentation from those of dropout, which are steps: no step is so large.
_AUGMENTATION = 2**31


def make_train_step(
    model: FlashVTG,
    optimizer: optax.GradientTransformation,
    loss_config: Any,
    *,
    data_config: Any | None = None,
    axis_name: str | None = None,
    shardings: TrainState | None = None,
    skip_nonfinite: bool = False,
) -> TrainStep:
    """The function (state, batch) -> (next state, metrics) that training repeats.

    Metrics are scalars: `loss`, its unweighted terms, and `gradient_norm` before clipping.
    Padding rows of the batch (no valid clip) change nothing.

    Args:
      model: the module.
      optimizer: of its parameters.
      loss_config: the `loss` section of a configuration.
      data_config: the `data` section, for its augmentation of videos; None: without.
      axis_name: of the devices when the step runs under `jax.pmap`: each computes the losses of its
        own rows, with dropout masks of its own; gradients and metrics are their means.
      shardings: of a state that is split over the devices. A step gathers the parameters, and
        each device updates its own part.
      skip_nonfinite: let a step whose loss or gradient is not finite change nothing but the number
        of steps; the metric `skipped` is 1 then, else 0.
    """

    def loss_fn(params: Any, batch: Batch, key: chex.PRNGKey) -> tuple[chex.Array, Metrics]:
        output = model.apply(
            {"params": params},
            batch.video,
            batch.video_mask,
            batch.query,
            batch.query_mask,
            train=True,
            with_negatives=loss_config.negative_pairs,
            rngs={"dropout": key},
        )
        return objective(output, batch.targets, loss_config)

    def augmented(batch: Batch, state: TrainState) -> Batch:
        if data_config is None or data_config.augment is None:
            return batch
        key = jax.random.fold_in(jax.random.key(state.seed), _AUGMENTATION)
        key = jax.random.fold_in(key, state.step)
        rows = jnp.arange(batch.video.shape[0])
        if axis_name is not None:  # rows are counted over all devices
            rows += jax.lax.axis_index(axis_name) * len(rows)
        return augment_videos(
            batch,
            data_config.augment,
            data_config.augment_strength,
            row_keys(key, rows),
            stream_widths(data_config),
        )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = augmented(batch, state)
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        params = state.params
        if shardings is not None:
            whole = jax.tree.map(lambda sharding: replicated(sharding.mesh), shardings.params)
            params = jax.lax.with_sharding_constraint(params, whole)
        gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, terms), gradients = gradient_fn(params, batch, key)
        metrics = {"loss": loss, **terms}
        if axis_name is not None:
            gradients, metrics = jax.lax.pmean((gradients, metrics), axis_name)
        if shardings is not None:
            gradients = jax.lax.with_sharding_constraint(gradients, shardings.params)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if skip_nonfinite:
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
            metrics["skipped"] = 1.0 - finite
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                (params, opt_state),
                (state.params, state.opt_state),
            )
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return train_step


def one_step(step: TrainStep) -> TrainStep:
    """A step whose metrics have an axis of steps in front, as those of `repeat_step`: [1, ...]."""

    def wrapped(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = step(state, batch)
        return state, jax.tree.map(lambda metric: metric[None], metrics)

    return wrapped


def repeat_step(
    step: TrainStep,
    take: Callable[[Any, Any], Batch],
    state: TrainState,
    data: Any,
    choices: Any,
    count: chex.Array,
) -> tuple[TrainState, Metrics]:
    """Does `count` training steps in a row on the device, without the host.

    Args:
      step: of `make_train_step`.
      take: (data, choice) -> batch.
      state: before the first of the steps.
      data: what all batches are taken from.
      choices: of batches, arrays [S, ...].
      count: [] int32, how many of the S choices are used, at least one. One program serves all
        counts, and each step computes the same for any count.

    Returns:
      the state after them, and the metrics of each, [S, ...] with zeros behind the last.
    """
    capacity = jax.tree.leaves(choices)[0].shape[0]
    if capacity == 1:  # XLA computes the body of a loop on one core of a CPU
        return one_step(step)(state, take(data, jax.tree.map(lambda array: array[0], choices)))
    step = jax.jit(step)  # traced once here, for its shapes and for itself

    def choose(i: chex.Array | int) -> Batch:
        return take(data, jax.tree.map(lambda array: array[i], choices))

    def advance(i: chex.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, metrics = carry
        state, new = step(state, choose(i))
        return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), metrics, new)

    _, shapes = jax.eval_shape(step, state, jax.eval_shape(choose, 0))
    metrics = jax.tree.map(lambda m: jnp.zeros((capacity, *m.shape), m.dtype), shapes)
    return jax.lax.fori_loop(0, count, advance, (state, metrics))
