"""Training: state, the pure step, meshes, checkpoints and the loop."""

from flashvtg_jax.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "TrainState": "training.state",
        "init_state": "training.state",
        "make_optimizer": "training.state",
        "make_train_step": "training.step",
    },
)
