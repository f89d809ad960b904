"""One training step: a pure function, to be compiled by whoever runs it."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from flashvtg_jax.data.batch import Batch
from flashvtg_jax.losses import objective
from flashvtg_jax.models.flashvtg import FlashVTG
from flashvtg_jax.training.parallel import replicated
from flashvtg_jax.training.state import TrainState

Metrics = dict[str, chex.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    model: FlashVTG,
    optimizer: optax.GradientTransformation,
    loss_config: Any,
    *,
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
      axis_name: of the devices when the step runs under `jax.pmap`: each computes the losses of its
        own rows, with dropout masks of its own; gradients and metrics are their means.
      shardings: of the parts that each device keeps of the state, if it is split. A step gathers
        the parameters, and returns the part that is updated.
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
            with_negatives=True,
            rngs={"dropout": key},
        )
        return objective(output, batch.targets, loss_config)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        params = state.params
        if shardings is not None:
            whole = jax.tree.map(lambda place: replicated(place.mesh), shardings.params)
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
