"""What changes during training, and how it starts."""

from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

from flashvtg_jax.data.batch import stream_widths
from flashvtg_jax.models.flashvtg import FlashVTG
from flashvtg_jax.models.init import init_params


@flax.struct.dataclass
class TrainState:
    """Everything a step reads and replaces. Randomness follows from `seed` and `step` alone."""

    step: chex.Array  # [] int32, steps done
    params: Any
    opt_state: optax.OptState
    seed: chex.Array  # [] uint32


def make_optimizer(config: Any, steps_per_epoch: int) -> optax.GradientTransformation:
    """AdamW with clipping by the global norm; `config` is the `optimizer` section.

    The learning rate is constant unless `lr_drop` (epochs) is set: then it halves every so often.
    """
    rate = config.learning_rate
    if config.lr_drop is not None:
        rate = optax.exponential_decay(
            rate, config.lr_drop * steps_per_epoch, decay_rate=0.5, staircase=True
        )
    return optax.chain(
        optax.clip_by_global_norm(config.gradient_clip_norm),
        optax.adamw(rate, weight_decay=config.weight_decay),
    )


def feature_widths(config: Any) -> tuple[int, int]:
    """Widths of a clip's (or of its tokens') and of a word's features, by the `data` section."""
    return sum(stream_widths(config)), config.query_width


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
    """How many numbers the model learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
