"""The optimizer and its learning-rate schedule."""

from typing import Any

import optax


def make_optimizer(config: Any, steps_per_epoch: int) -> optax.GradientTransformation:
    """AdamW with clipping by the global norm; `config` is the `optimizer` section.

    The learning rate is constant unless `lr_drop` is set: then it halves every `lr_drop` epochs.
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
