"""One training step: a pure function, to be compiled by whoever runs it."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import optax

from flashvtg_jax.data.batch import Batch
from flashvtg_jax.losses import objective
from flashvtg_jax.models.flashvtg import FlashVTG
from flashvtg_jax.training.state import TrainState

Metrics = dict[str, chex.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    model: FlashVTG, optimizer: optax.GradientTransformation, loss_config: Any
) -> TrainStep:
    """The function (state, batch) -> (next state, metrics) that training repeats.

    Metrics are scalars: `loss`, its unweighted terms, and `gradient_norm` before clipping.
    Padding rows of the batch (no valid clip) change nothing.
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
        gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, terms), gradients = gradient_fn(state.params, batch, key)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        next_state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
        )
        metrics = {"loss": loss, **terms, "gradient_norm": optax.tree.norm(gradients)}
        return next_state, metrics

    return train_step
