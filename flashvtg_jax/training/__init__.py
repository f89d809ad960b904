"""Training one run: state, optimizer, the pure step, the trainer and its hooks."""

from flashvtg_jax.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Hook": "training.hooks.hook",
        "TrainState": "training.state",
        "Training": "training.hooks.hook",
        "init_state": "training.state",
        "make_optimizer": "training.optimizer",
        "make_train_step": "training.step",
    },
)
