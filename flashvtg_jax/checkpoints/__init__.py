"""Checkpoints of a work directory: save, verify, recover, restore."""

from flashvtg_jax.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Checkpoints": "checkpoints.manager",
        "Restored": "checkpoints.restore",
        "load_params": "checkpoints.restore",
    },
)
