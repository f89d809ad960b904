"""The training state: everything a step reads and replaces."""

from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

from flashvtg_jax.models.flashvtg import FlashVTG
from flashvtg_jax.models.init import init_params


@flax.struct.dataclass
class TrainState:
    """Everything a step reads and replaces. Randomness follows from `seed` and `step` alone."""

    step: chex.Array  # [] int32, steps done
    params: Any
    opt_state: optax.OptState
    seed: chex.Array  # [] uint32


def init_state(
    model: FlashVTG,
    optimizer: optax.GradientTransformation,
    video_dim: int,
    query_dim: int,
    seed: chex.Array | int,
) -> TrainState:
    """The state before the first step, a function of the seed; [] uint32, or an int below 2^32."""
    seed = jnp.asarray(seed, jnp.uint32)
    params = init_params(model, jax.random.key(seed), video_dim, query_dim)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        seed=seed,
    )


def param_count(params: Any) -> int:
    """The number of learned parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
